"""The plan: names of candidates go into models, so they hold no path, and each is one of a kind."""

from mainstem.config import Candidate, InputSettings
from mainstem.training import plan
from mainstem.training.plan import _label, _told_apart


def test_a_brought_folder_is_named_without_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_is_pretrained", lambda ref: True)
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/config.json").write_text('{"model_type": "bert"}')
    named = _label(InputSettings(name="text", columns=("a",), backbone=f"hf:{tmp_path / 'encoder'}", adapt="probe"))
    assert named == "hf:encoder probe"


def test_candidates_of_one_name_are_told_apart():
    made = [Candidate(name=name, inputs=()) for name in ("a", "b", "a", "a")]
    assert [c.name for c in _told_apart(made)] == ["a", "b", "a #2", "a #3"]


def test_few_rows_are_passed_more_often():
    steps = {rows: plan._training("ngram", rows).epochs * -(-rows // 64) for rows in (100, 500, 2000, 20_000)}
    assert steps[500] == 320  # 40 passes, and no more
    assert steps[2000] >= 400
    assert plan._training("ngram", 20_000) == plan._training("ngram")
    assert plan._training("probe", 100) == plan._training("probe")
