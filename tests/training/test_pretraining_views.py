"""Pretraining on pictures and pairs: cut off and gone on with, in parts, and the backbones in use."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load
from safetensors.torch import save

import mainstem as ms
from mainstem import api, files, registry
from mainstem.cli import main
from mainstem.config import Pretraining, parse
from mainstem.errors import MainstemError
from mainstem.training import estimate

WORDS = {"dark": "night coal raven ink shadow 黑色".split(), "light": "snow milk paper cloud salt 白色".split()}
BERT = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 300, "max_length": 16, "dropout": 0.0}
TRAINING = {"steps": 6, "batch_size": 8, "precision": "float32", "checkpoint_every": 0, "lr": 0.001}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dark and light pictures, a table of captions with their pictures, a tiny vision transformer and a tiny BERT with weights."""
    folder, rng = tmp_path_factory.mktemp("views"), np.random.default_rng(0)
    rows = []
    for number in range(48):
        name = ("dark", "light")[number % 2]
        path = folder / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = 40 if name == "dark" else 200
        Image.fromarray(rng.integers(level - 40, level + 40, (20, 24, 3)).astype(np.uint8)).save(path)
        words = [" ".join(rng.choice(WORDS[name], 4 + number % 5)) for _ in range(2)]
        rows.append([f"pictures/{name}/{number}.png", *words, name])
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["picture", "title", "body", "label"], *rows])
    brought(folder / "vit")
    learned = {
        "objective": "contrastive",
        "data": str(folder / "rows.csv"),
        "inputs": ["title"],
        "backbone": "bert",
        "backbone_settings": BERT,
    }
    made = api.pretrain(config={**learned, "settings": {"held_out": 0.25}, "training": {**TRAINING, "steps": 1}}, out=folder / "learned")
    made.backbone.rename(folder / "bert")
    return folder


def brought(folder):
    """A vision transformer as timm keeps one on the hub."""
    import timm

    small = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **small)
    cfg = {"input_size": [3, 16, 16], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "num_classes": 0}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "num_features": 32, "pretrained_cfg": cfg, "model_args": small}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(save(module.state_dict(), metadata={"format": "pt"}))


def tree(folder, kind):
    """The config of a run of each kind."""
    texts = {"data": str(folder / "rows.csv"), "backbone": "bert", "backbone_settings": BERT}
    kinds = {
        "masked": {"objective": "masked-image", "data": str(folder / "pictures"), "backbone": f"timm:{folder / 'vit'}"},
        "pictures": {"objective": "contrastive", "data": str(folder / "pictures"), "backbone": f"timm:{folder / 'vit'}"},
        "texts": {"objective": "contrastive", **texts, "inputs": ["body"]},
        "neighbours": {"objective": "contrastive", **texts, "inputs": ["body"], "backbone": str(folder / "bert"), "backbone_settings": {}},
        "pairs": {"objective": "contrastive", **texts, "inputs": ["title", "body"]},
        "captions": {
            "objective": "contrastive",
            "data": str(folder / "rows.csv"),
            "inputs": ["title", "picture"],
            "backbone": {"text": "bert", "image": f"timm:{folder / 'vit'}"},
            "backbone_settings": {"text": BERT},
        },
    }
    settings = {"held_out": 0.25, **({"views": "neighbours"} if kind == "neighbours" else {})}
    return {**kinds[kind], "settings": settings, "training": TRAINING, "evaluate_every": 3}


KINDS = ("masked", "pictures", "texts", "neighbours", "pairs", "captions")


@pytest.fixture(scope="module", params=KINDS)
def whole(request, folder, tmp_path_factory):
    made = api.pretrain(config=tree(folder, request.param), out=tmp_path_factory.mktemp("whole") / "run")
    return request.param, made


def weights(run):
    return {path.relative_to(run.backbone).as_posix(): path.read_bytes() for path in sorted(run.backbone.rglob("*.safetensors"))}


def far(run, other):
    """The largest difference of two runs' backbones."""
    pairs = [(load(a), load(b)) for a, b in zip(weights(run).values(), weights(other).values(), strict=True)]
    return max(float(np.abs(a[name] - b[name]).max()) for a, b in pairs for name in a.keys() | b.keys())


def lines(folder):
    timed = ("seconds", "tokens_per_second", "of_limit")
    told = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in told]


class Cut(Exception):
    """As a kill, for all that the run can do about it."""


def test_a_run_that_is_cut_off_ends_in_the_same_weights(whole, folder, tmp_path):
    kind, run = whole

    def report(figures):
        if figures.get("step") == 4 and "rows" in figures:
            raise Cut

    with pytest.raises(Cut):
        api.pretrain(config=tree(folder, kind), out=tmp_path / "run", report=report)
    assert not (tmp_path / "run" / "backbone").exists()
    again = api.pretrain(config=tree(folder, kind), out=tmp_path / "run", resume=True)
    assert weights(again) == weights(run)
    assert lines(again.folder) == lines(run.folder)
    assert again.figures == run.figures


def test_held_out_pairs_are_told(whole):
    kind, run = whole
    told = lines(run.folder)
    assert [line["step"] for line in told] == [3, 6]
    assert all(np.isfinite(line["valid"]) for line in told)
    if kind != "masked":
        best = min(told, key=lambda line: line["valid"])
        assert 0 <= best["measures"]["retrieval_at_1"] == run.figures["retrieval_at_1"] <= 1
    assert (run.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not files.broken(run.backbone)


def test_a_backbone_is_loaded_by_its_own_library_and_by_train(whole, folder, tmp_path):
    import timm
    from transformers import AutoModel, AutoTokenizer, logging

    logging.set_verbosity_error()
    kind, run = whole
    places = {"captions": {"text": "text", "image": "image"}, "masked": {"image": ""}, "pictures": {"image": ""}}.get(kind, {"text": ""})
    for modality, place in places.items():
        path = run.backbone / place
        ref = registry.resolve(str(path))
        plugin = registry.load("backbones", ref.family).plugin
        module = plugin.build(ref).eval()
        with torch.no_grad():
            if modality == "image":
                pixels = torch.randn(2, 3, 16, 16)
                theirs = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
                torch.testing.assert_close(plugin.forward(module, {"pixels": pixels})["pooled"], theirs(pixels))
            else:
                ids = AutoTokenizer.from_pretrained(path)("night 黑色", return_tensors="pt").input_ids
                output = AutoModel.from_pretrained(path).eval()(input_ids=ids).last_hidden_state
                torch.testing.assert_close(plugin.forward(module, {"ids": ids, "mask": torch.ones_like(ids)})["sequence"], output)
    column = {"text": "body", "image": "picture"}
    made = ms.train(
        folder / "rows.csv",
        "label",
        inputs=[column[modality] for modality in places],
        backbone={modality: str(run.backbone / place) for modality, place in places.items()},
        adapt="probe",
        epochs=2,
        allow_leak=True,
        out=tmp_path / "run",
    )
    assert made.model.predict([{"body": "coal ink", "picture": (folder / "pictures/dark/0.png").read_bytes()}])[0]["prediction"] in WORDS


@pytest.mark.parametrize("kind", ["texts", "neighbours", "captions", "masked"])
def test_a_batch_in_parts_gives_the_same_weights(folder, tmp_path, kind):
    config = tree(folder, kind)
    config["training"] = {**TRAINING, "optimizer": "sgd", "lr": 0.1, "steps": 3}
    one = api.pretrain(config=config, out=tmp_path / "one")
    parts = api.pretrain(config=config, out=tmp_path / "parts", training__accumulate=3)
    other = api.pretrain(config=config, out=tmp_path / "other", training__batch_size=7)
    assert far(one, parts) < 2e-6 < 1e-4 < far(one, other)


def test_the_seed_alone_decides(folder, tmp_path):
    config = {**tree(folder, "pictures"), "training": {**TRAINING, "steps": 2}}
    one, again, other = (api.pretrain(config=config, out=tmp_path / name, seed=int(name == "other")) for name in ("one", "again", "other"))
    assert far(one, again) == 0 < far(one, other)


def test_the_command_takes_a_backbone_for_each_modality(folder, tmp_path, capsys):
    given = ["--input", "title", "--input", "picture", "--backbone", "text=bert", "--backbone", f"image=timm:{folder / 'vit'}"]
    settings = [f"backbone_settings.text.{name}={value}" for name, value in BERT.items()] + [
        "settings.held_out=0.25",
        "training.batch_size=8",
    ]
    given += [part for each in settings for part in ("--set", each)]
    command = ["pretrain", str(folder / "rows.csv"), "--objective", "contrastive", "--steps", "2", *given]
    assert main([*command, "-o", str(tmp_path / "run")]) == 0
    assert "retrieval at 1" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "run" / "backbone").iterdir() if path.is_dir()} == {"text", "image"}
    assert main([*command, "--backbone", "vit", "-o", str(tmp_path / "other")]) == 2
    assert "each needs its modality" in capsys.readouterr().err


def test_mistakes_are_told_before_anything_is_made(folder, tmp_path):
    cases = [
        ({"data": ""}, "pictures, and there is no data"),
        ({"settings": {"crops": 1}}, "Did you mean 'crop'"),
        ({"data": str(folder / "none")}, "no such file"),
        ({"backbone": {"image": "vit"}, "backbone_settings": {"picture": {}}}, "no backbone of 'picture'"),
        ({"backbone": "vitt"}, "no backbone is named"),
    ]
    for number, (change, message) in enumerate(cases):
        with pytest.raises(MainstemError, match=message):
            api.pretrain(config={**tree(folder, "pictures"), **change}, out=tmp_path / str(number))


@pytest.mark.parametrize("kind", ["masked", "captions", "pairs"])
def test_what_a_run_needs_is_told_of_all_its_data(folder, monkeypatch, kind):
    config = parse(Pretraining, {**tree(folder, kind), "training": {"epochs": 3, "batch_size": 8, "precision": "float32"}})
    whole = estimate.estimate(config)
    assert whole.fits
    assert 3 * 3 <= whole.steps <= 3 * 6  # of 48 rows some are held out
    monkeypatch.setattr(estimate, "_ROWS", 30)
    assert estimate.estimate(config).steps == pytest.approx(whole.steps, abs=6)
