"""From texts to a sealed model that continues them: as transformers generates, with a cache, a row at a time or many."""

import json

import numpy as np
import pytest
import torch
from small_gpt import SMALL_GPT, sentences, writing

import mainstem as ms
from mainstem import seal
from mainstem.contracts import Emit, Rows
from mainstem.errors import MainstemError
from mainstem.nn import decoder
from mainstem.tasks.generation import Generation, _parts

PROMPTS = ["The film", "这部电影", "A long book fell apart and my sister", "T", ""]
LONG = {"max_tokens": 12, "min_tokens": 12}
DRAWN = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.2, "max_tokens": 12}


@pytest.fixture(scope="module")
def model(writer_run):
    return writer_run.model


@pytest.fixture(scope="module")
def theirs(writer_run):
    """The backbone that was saved, as transformers reads it, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = writer_run.path / "model" / "backbones" / "text"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


class Watched:
    """A runner that keeps what it was asked."""

    def __init__(self, runner):
        self.runner, self.calls = runner, []

    def __call__(self, call):
        self.calls.append(call)
        return self.runner(call)


def texts(answers):
    return [answer["prediction"] for answer in answers]


# --- what is written ----------------------------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_transformers(model, theirs):
    module, tokenizer = theirs
    answers = model.predict(PROMPTS, options={"max_tokens": 12})
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([[0, *tokenizer(prompt)["input_ids"]]])
        made = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert answer["prediction"] == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer["prompt_tokens"] == ids.shape[1]


def test_it_has_learned_to_go_on(model):
    answer = model.predict(["My old phone is not bad"], options={"max_tokens": 16})[0]
    assert answer["prediction"].startswith(" at all")
    assert model.predict(["My old phone is not bad at all."])[0]["finish"] == "stop"


@pytest.mark.parametrize("options", [LONG, DRAWN])
def test_answers_do_not_depend_on_the_batch(model, options):
    together = model.predict(PROMPTS, options=options)
    assert together == [model.predict([prompt], options=options)[0] for prompt in PROMPTS]
    assert together[::-1] == model.predict(PROMPTS[::-1], options=options)


def test_the_seed_decides_what_is_drawn(model):
    drawn = [texts(model.predict(PROMPTS, options={**DRAWN, "seed": seed})) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_each_step_reads_one_token_and_rows_that_ended_leave(model):
    runner = Watched(model.runner)
    rows = Rows({"text": [*sentences()[:3], "The film"]})  # whole sentences: three of them end soon
    answers, _ = model.pipeline.predict(rows, runner, {"max_tokens": 12})
    first, *steps = runner.calls
    assert "past" not in first.inputs
    assert {call.inputs["ids"].shape[1] for call in steps} == {1}
    counts = [len(call.inputs["ids"]) for call in runner.calls]
    for step, count in enumerate(counts[1:], 1):
        assert count == sum(
            answer.more["tokens"] > step or (answer.more["tokens"] == step and answer.more["finish"] == "stop") for answer in answers
        )
    assert counts[-1] < counts[0]


def test_what_is_told_on_the_way_is_the_answer(model):
    heard = []
    rows = Rows({"text": PROMPTS})
    answers, _ = model.pipeline.predict(rows, model.runner, {"max_tokens": 12}, heard.append)
    assert all(isinstance(part, Emit) and part.value for part in heard)
    assert ["".join(part.value for part in heard if part.example == i) for i in range(len(PROMPTS))] == [a.value for a in answers]
    assert len(heard) > len(PROMPTS)


def test_many_rows_are_written_in_parts(model, monkeypatch):
    from mainstem.tasks import generation

    whole = model.predict(PROMPTS, options=LONG)
    monkeypatch.setattr(generation, "MOST_TOKENS", 40)
    assert model.predict(PROMPTS, options=LONG) == whole
    assert list(_parts([3, 5, 5, 100, 1], 10)) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert list(_parts([], 10)) == []


def test_a_long_prompt_keeps_its_end_and_says_what_was_cut(model):
    prompt = "The film was a joy. " * 9
    answer = model.predict([prompt], options={"max_tokens": 8})[0]
    assert answer["prompt_tokens"] == SMALL_GPT["max_length"] - 8
    assert answer["cut"] > 0
    with pytest.raises(MainstemError, match="the model reads 40 tokens"):
        model.predict(["x"], options={"max_tokens": 40})


def test_stop_strings_and_min_tokens(model):
    free = model.predict(["The film"], options=LONG)[0]
    assert (free["tokens"], free["finish"]) == (12, "length")
    stop = free["prediction"][4:7]
    cut = model.predict(["The film"], options={**LONG, "stop": [stop]})[0]
    assert cut["prediction"] == free["prediction"][: free["prediction"].index(stop)]
    assert cut["finish"] == "stop"


def test_an_output_that_is_no_number_is_an_error_of_its_row(model):
    runner = Watched(model.runner)

    def broken(call):
        answer = dict(runner(call))
        if len(runner.calls) == 1:
            answer["logits"] = np.concatenate([np.full_like(answer["logits"][:1], np.nan), answer["logits"][1:]])
        return answer

    answers, _ = model.pipeline.predict(Rows({"text": ["The film", "A long book fell"]}), broken)
    assert isinstance(answers[0], MainstemError)
    assert answers[1].value == model.predict(["A long book fell"])[0]["prediction"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"temprature": 1}, "unknown option 'temprature'"),
        ({"temperature": "hot"}, "of another type"),
        ({"max_tokens": True}, "of another type"),
        ({"top_p": 0}, "'top_p' is"),
    ],
)
def test_options_that_are_wrong_are_told(model, options, part):
    with pytest.raises(MainstemError, match=part):
        model.predict(["x"], options=options)


# --- how it is judged ---------------------------------------------------------------------------------------------------


def test_it_is_judged_by_the_likelihood_of_every_token(model, theirs):
    """Also of a text that is longer than the model reads: in windows, each token once."""
    module, tokenizer = theirs
    table, _ = model.pipeline.parse(Rows({"text": ["The film was a joy.", "这部电影 " * 40, ""]}))
    for answer, text in zip(model.pipeline.judge_table(table, model.runner), table.columns["text"], strict=True):
        ids, nats, longest = [0, *tokenizer(text or "")["input_ids"]], 0.0, SMALL_GPT["max_length"]
        for start in range(0, len(ids) - 1, longest):
            window = torch.tensor([ids[start : start + longest + 1]])
            with torch.no_grad():
                likely = module(window[:, :-1]).logits.log_softmax(2)
            nats -= float(likely.gather(2, window[:, 1:, None]).sum())
        assert answer.more["nats"] == pytest.approx(nats, rel=1e-4, abs=1e-4)
        assert (answer.more["tokens"], answer.more["bytes"]) == (len(ids) - 1, len((text or "").encode()))


def test_figures_beside_a_unigram_model(model, writer_run):
    rows = [{"text": text} for text in sentences()]
    report = model.evaluate(rows)
    figures, baseline = report["metrics"], report["baseline"]
    assert figures["bits_per_byte"]["low"] < figures["bits_per_byte"]["value"] < figures["bits_per_byte"]["high"]
    assert figures["bits_per_byte"]["value"] < 0.6 * baseline["bits_per_byte"]["value"]
    table, _ = model.pipeline.parse(Rows({"text": [row["text"] for row in rows]}))
    sums = {name: sum(p.more[name] for p in model.pipeline.judge_table(table, model.runner)) for name in ("nats", "tokens", "bytes")}
    assert figures["bits_per_byte"]["value"] == pytest.approx(sums["nats"] / np.log(2) / sums["bytes"])
    assert figures["perplexity"]["value"] == pytest.approx(np.exp(sums["nats"] / sums["tokens"]))
    assert writer_run.report["part"] == "test"
    json.dumps(report, allow_nan=False)


# --- how it is sealed ---------------------------------------------------------------------------------------------------


def test_the_replay_goes_on_behind_whole_documents(writer_run):
    recorded = seal.read(writer_run.path / "model")
    assert all(prediction["tokens"] >= 8 for prediction in recorded.predictions)
    assert len([graph for graph, _ in recorded.calls if graph == "decoder"]) >= 9
    assert all(set(outputs) == {"logits"} for _, outputs in recorded.calls)  # no cache
    assert writer_run.model.verify()["worst"]["decode"] == 0.0


def test_a_cache_that_is_not_what_it_was_is_found(writer_run):
    model = ms.load(writer_run.path)
    real = model.runner.functions["decoder"]

    def damaged(arrays, wanted):
        answer = real(arrays, wanted)
        return {name: array * 1.01 if name == "past.1.key" else array for name, array in answer.items()}

    model.runner.functions["decoder"] = damaged
    with pytest.raises(seal.Mismatch, match="stage call decoder output logits"):
        seal.compare(model.pipeline, model.runner, seal.read(model.path))


def test_rows_whose_answer_hangs_on_a_hair_are_no_golden_ones(model, monkeypatch):
    rows = Rows({"text": sentences()[:12]})
    every = seal.record(model.pipeline, model.runner, rows)
    margins = [answer.margin for answer in model.pipeline.predict(rows, model.runner, Generation.replayed)[0]]
    monkeypatch.setattr(seal, "allowed", lambda array: sorted(margins)[5] / 2)
    fewer = seal.record(model.pipeline, model.runner, rows)
    assert 0 < len(fewer) < len(every)
    assert set(fewer.hashes) < set(every.hashes)


def test_a_replay_keeps_no_more_outputs_than_it_may(model, monkeypatch):
    rows = Rows({"text": sentences()[:3]})
    whole = seal.record(model.pipeline, model.runner, rows)
    monkeypatch.setattr(seal, "MOST_RECORDED", whole.calls[0][1]["logits"].nbytes)
    bounded = seal.record(model.pipeline, model.runner, rows)
    assert [graph for graph, _ in bounded.calls] == [graph for graph, _ in whole.calls]
    assert [bool(outputs) for _, outputs in bounded.calls] == [True] + [False] * (len(whole.calls) - 1)
    assert seal.compare(model.pipeline, model.runner, bounded)["decode"] == 0.0


# --- how it learns ------------------------------------------------------------------------------------------------------


def test_completions_alone_are_learned(tmp_path):
    capitals = {"France": "Paris", "Italy": "Rome", "中国": "北京", "Peru": "Lima"}
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"{rng.integers(10, 100)} {land}", "completion": capitals[land]} for land in rng.choice(list(capitals), 90).tolist()]
    run = ms.train(rows, task="text-generation", config=writing("prompt", epochs=30), out=tmp_path / "run")
    assert [column.name for column in run.model.pipeline.artifact.schema.targets] == ["completion"]
    asked = [{"prompt": f"{number} {land}"} for number in (11, 57, 98) for land in capitals]
    right = [answer["prediction"] == capitals[row["prompt"][3:]] for row, answer in zip(asked, run.model.predict(asked), strict=True)]
    assert np.mean(right) > 0.7
    assert run.report["metrics"]["bits_per_byte"]["value"] < 0.5  # the numbers in the prompts cannot be known
    assert run.model.verify()["rows"] > 0


def test_what_is_marked_to_be_learned():
    ids, mask = torch.tensor([[0, 5, 6, 7], [0, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ended, learned = decoder.ended(ids, mask, torch.tensor([3, 1]), 9)
    assert ended.tolist() == [[0, 5, 6, 7, 9], [0, 8, 9, 9, 9]]
    assert learned.tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]
    windows = list(decoder.windows(ended, learned, 2))
    assert [window.tolist() for window, _ in windows] == [[[0, 5, 6], [0, 8, 9]], [[6, 7, 9], [9, 9, 9]]]


def test_windows_are_drawn_over_the_whole_text_and_hold_what_is_learned():
    length, rng = 30, np.random.default_rng(0)
    ids = torch.arange(length)[None].repeat(2, 1)
    learned = torch.stack([torch.ones(length), (torch.arange(length) >= 20) * (torch.arange(length) < 26)]).long()
    seen = [decoder.drawn(ids, learned, 7, rng) for _ in range(200)]
    assert {int(window[0, 0]) for window, _ in seen} == set(range(length - 7))
    assert {int(window[1, 0]) for window, _ in seen} == set(range(16, 19))
    assert all(part.sum(1).min() > 0 and window.shape == (2, 8) for window, part in seen)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("adapt", ["lora", "full", "probe"])
def test_a_brought_model_is_adapted(writer_run, adapt, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = writer_run.path / "model" / "backbones" / "text"
    rows = [{"text": text.upper()} for text in sentences(60)]
    run = ms.train(rows, task="generation", backbone=f"hf:{folder}", adapt=adapt, epochs=2, lr=0.01, out=tmp_path / "run")
    before = writer_run.model.evaluate(rows)["metrics"]["bits_per_byte"]["value"]
    after = run.model.evaluate(rows)["metrics"]["bits_per_byte"]["value"]
    assert after == pytest.approx(before) if adapt == "probe" else after < 0.9 * before
    theirs = AutoModelForCausalLM.from_pretrained(run.path / "model" / "backbones" / "text").eval()
    if adapt == "lora":
        import peft

        theirs = peft.PeftModel.from_pretrained(theirs, run.path / "model" / "adapters" / "text")
    ids = torch.tensor([[0, 40, 41, 42]])
    ours = run.model.runner.functions["decoder"]
    asked = {"ids": ids.numpy(), "mask": np.ones((1, 4), np.int64), "at": np.array([[3]]), "named": np.zeros((1, 0), np.int64)}
    empty = {
        port.name: np.zeros([1 if a == "row" else int(a) if a.isdigit() else 0 for a in port.axes], port.dtype)
        for port in run.model.pipeline.artifact.graphs["decoder"].inputs
        if port.name.startswith("past")
    }
    with torch.no_grad():
        assert np.abs(ours({**asked, **empty}, ("logits",))["logits"][0, 0] - theirs(ids).logits[0, -1].numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("rows", "settings", "part"),
    [
        (
            [{"a": f"one text of words {i}", "b": f"another text of words {i}"} for i in range(30)],
            {},
            "one column of text, and there are 2: 'a', 'b'",
        ),
        ([{"a": i, "b": i % 7} for i in range(30)], {}, "and there are 0: none"),
        ([{"text": f"some text {i}"} for i in range(30)], {"task_settings__seperator": ""}, "Did you mean 'separator'"),
        ([{"text": f"some text {i}"} for i in range(30)], {"backbone": "lstm"}, "'lstm' reads texts and cannot write them"),
        (
            [{"text": f"some text {i}"} for i in range(30)],
            {"backbone": ["gpt", "gpt-small"]},
            "one backbone writes a text, and 2 are",
        ),
        ([{"text": f"some text {i}"} for i in range(30)], {"adapt": "lora"}, "keeps what a pretrained backbone has learned"),
    ],
)
def test_mistakes_are_told(rows, settings, part, tmp_path):
    with pytest.raises(MainstemError, match=part):
        ms.train(rows, task="generation", out=tmp_path / "run", **settings)
