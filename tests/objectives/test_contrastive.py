"""contrastive: the loss, batches in parts, and how each kind of pair is seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from mainstem import registry
from mainstem.contracts import Material, Ref, State
from mainstem.errors import MainstemError
from mainstem.modalities import text as modality
from mainstem.nn import contrast
from mainstem.objectives import _neighbours, contrastive
from mainstem.training.loop import tensors

WORDS = "river stone cloud paper engine window garden letter market summer 河流 石头 云朵".split()
DRAWN = np.random.default_rng(1)
ROWS = [
    {"id": i, "title": f"{i} " + " ".join(DRAWN.choice(WORDS, 3)), "body": " ".join(DRAWN.choice(WORDS, 4 + i % 20))} for i in range(60)
]
BERT = Ref("bert", "bert", settings={"width": 16, "heads": 2, "layers": 1, "vocab_size": 300, "max_length": 40, "dropout": 0.0})
CNN = Ref("cnn", "cnn", settings={"size": 16})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    rows = []
    for row in ROWS:
        name = f"pictures/{row['id']}.png"
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / name)
        rows.append({**row, "picture": name})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


def opened(folder, kind, run, **settings):
    inputs = {"texts": ("body",), "pairs": ("title", "body"), "captions": ("picture", "title"), "pictures": ()}[kind]
    data = folder / ("pictures" if kind == "pictures" else "rows.jsonl")
    material = Material(str(data), inputs, backbone=CNN if kind == "pictures" else BERT, folder=run)
    if kind == "captions":
        material = replace(material, backbone=None, towers={"text": BERT, "image": CNN})
    made = contrastive.plugin({"held_out": 0.3, **settings})
    made.open(material)
    return made


KINDS = ("texts", "pairs", "pictures", "captions")


@pytest.fixture(scope="module")
def kinds(folder, tmp_path_factory):
    return {kind: opened(folder, kind, tmp_path_factory.mktemp("run") / kind) for kind in KINDS}


def test_the_loss_is_the_cross_entropy_of_the_partner():
    torch.manual_seed(0)
    first, second = (functional.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    factor = torch.tensor(7.0)
    both = torch.cat([first, second])
    alike = factor * both @ both.T
    alike.fill_diagonal_(-torch.inf)
    whole = functional.cross_entropy(alike, torch.arange(10).roll(5))
    torch.testing.assert_close(contrast.info_nce(first, second, factor, one_space=True), whole)
    across = factor * first @ second.T
    clip = (functional.cross_entropy(across, torch.arange(5)) + functional.cross_entropy(across.T, torch.arange(5))) / 2
    torch.testing.assert_close(contrast.info_nce(first, second, factor, one_space=False), clip)
    assert float(contrast.found(first, first)) == 1
    assert float(contrast.found(first, first.roll(1, 0))) == 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_features_in_parts_have_the_gradient_of_the_whole(dropout):
    module = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(32, 6))
    x, held = torch.randn(7, 4), []

    def run(arrays):
        held.append(len(arrays["x"]))
        return module(arrays["x"])

    def gradient(parts):
        module.zero_grad()
        torch.manual_seed(3)
        made = functional.normalize(contrast.features(run, {"x": x}, parts), dim=1)
        (made @ made.T).exp().sum().backward()
        after = torch.rand(1)
        return [p.grad.clone() for p in module.parameters()], after

    (whole, one), (parts, three) = gradient(1), gradient(3)
    assert (held[0], sorted(held[1:4]), sorted(held[4:7])) == (7, [1, 3, 3], [1, 3, 3])  # each part once more for the gradient
    if dropout == 0:
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(one, three)
    again, _ = gradient(3)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))  # what dropout drew is drawn again


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_pair_is_told_by_the_data(kinds, kind):
    made = kinds[kind]
    assert made.kind == kind
    train, looked_at = made.source.sizes
    assert train + looked_at == 60
    assert looked_at >= 5
    batch = made.stream(1).take(np.arange(4), np.random.default_rng(0))
    assert batch.examples == 4
    torch.manual_seed(0)
    networks = made.networks({}, State(), {})
    output = made.forward(networks, tensors(batch))
    for side in ("first", "second"):
        torch.testing.assert_close(output[side].norm(dim=1), torch.ones(4))
    assert networks["head"].log_factor.requires_grad == (kind == "captions")
    files = made.artifact(networks)
    places = {name.rpartition("/")[0] for name in files if name.endswith("config.json")}
    assert places == ({"text", "image"} if kind == "captions" else {""})
    held_out = made.held_out()
    again = [held_out.take(np.arange(3)).inputs["second"] for _ in range(2)]
    assert all(np.array_equal(again[0][key], again[1][key]) for key in again[0])
    alone = held_out.take(np.array([2])).inputs["first"]
    whole = held_out.take(np.arange(3)).inputs["first"]
    for key, array in alone.items():
        assert np.array_equal(array[0], whole[key][2][: array.shape[1]] if array.ndim == 2 else whole[key][2])


def bare(reader, arrays):
    """The ids of texts, without what stands around them."""
    last = len(reader.after)
    return [ids[mask > 0][len(reader.before) : -last or None].tolist() for ids, mask in zip(arrays["ids"], arrays["mask"], strict=True)]


def test_texts_are_read_as_train_reads_them(kinds):
    reader = kinds["texts"].source.reader
    texts = ["river stone", "a cloud over 河流"]
    ours = reader.arrays([ids for ids, _ in reader.tokenise(texts)])
    theirs, _ = modality.plugin.encode(texts, reader.info.processor, reader.ref.state)
    for key, array in theirs.items():
        assert np.array_equal(ours[key], array)


def test_parts_of_a_text_are_all_of_it_and_dropout_sees_it_twice(kinds, folder, tmp_path):
    source = kinds["texts"].source
    for held_out, rng in ((False, np.random.default_rng(0)), (True, None)):
        indices = np.arange(source.sizes[held_out])
        first, second = (bare(source.reader, arrays) for arrays in source.take(held_out, indices, rng))
        for a, b, (ids, _) in zip(first, second, source.parts[held_out].take(indices), strict=True):
            assert a + b == ids.tolist()
            assert min(len(a), len(b)) >= max(1, 0.25 * len(ids) - 1)
            assert rng is not None or abs(len(a) - len(b)) <= 1
    twice = opened(folder, "texts", tmp_path, views="dropout").source
    first, second = twice.take(False, np.arange(5), np.random.default_rng(0))
    assert np.array_equal(first["ids"], second["ids"])
    assert not np.array_equal(*(arrays["ids"][:, :3] for arrays in twice.take(True, np.arange(5), None)))


class Windows(list):
    """Token files in memory."""

    @property
    def lengths(self):
        return np.array([len(ids) for ids in self])

    def take(self, indices):
        return [(self[i], None) for i in indices]


def test_a_text_is_averaged_with_those_that_share_its_words():
    rng = np.random.default_rng(0)
    topics = [np.arange(10, 30), np.arange(30, 50)]
    texts = [rng.choice(topics[i % 2], 3 + i % 7) for i in range(100)]
    parts = Windows(texts[:90]), Windows([*texts[90:], np.array([77])])  # and one that shares a word with none
    own = {
        ids.tobytes(): functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(i)), dim=0)
        for i, ids in enumerate([*parts[0], *parts[1]])
    }

    made = _neighbours.averages(parts, lambda ids: 3 * np.stack([own[one.tobytes()].numpy() for one in ids]))
    assert made.shape == (101, 8)
    alone = np.stack([own[ids.tobytes()].numpy() for ids in [*parts[0], *parts[1]]])
    np.testing.assert_allclose(made[-1], alone[-1], atol=1e-6)
    likeness = _neighbours._Words(list(parts[0])).likeness(list(parts[0]))
    np.fill_diagonal(likeness, 0)
    for i in (0, 17, 89):
        near = [j for j in np.argsort(-likeness[i])[: _neighbours.NEAREST] if likeness[i, j] > 0]
        assert len(near) > 10
        assert all(j % 2 == i % 2 for j in near)
        wanted = alone[i] + alone[near].mean(0)
        np.testing.assert_allclose(made[i], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_a_text_is_led_to_where_its_average_lies():
    torch.manual_seed(0)
    wanted, others = (functional.normalize(torch.randn(n, 8), dim=1) for n in (4, 50))
    factor = torch.tensor(5.0)
    there, away = contrast.likeness(wanted, wanted, others, factor), contrast.likeness(wanted.roll(1, 0), wanted, others, factor)
    entropy = -((factor * wanted @ others.T).softmax(1) * (factor * wanted @ others.T).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(there, entropy)
    assert there < away


def test_pairs_stay_together(kinds):
    source = kinds["pairs"].source
    tokenizer = source.reader.tokenizer
    titles = {row["title"]: row["body"] for row in ROWS}
    for held_out in (False, True):
        first, second = (bare(source.reader, arrays) for arrays in source.take(held_out, np.arange(source.sizes[held_out]), None))
        for a, b in zip(first, second, strict=True):
            title = tokenizer.decode(a)
            assert titles[title].startswith(tokenizer.decode(b)[:8])
            assert len(b) <= 38


def test_views_of_a_picture_differ_and_captions_stay_with_theirs(kinds):
    first, second = kinds["pictures"].source.take(False, np.arange(3), np.random.default_rng(0))
    assert first["pixels"].shape == (3, 3, 16, 16)
    assert all(np.abs(a - b).mean() > 0.05 for a, b in zip(first["pixels"], second["pixels"], strict=True))
    source = kinds["captions"].source
    texts, pixels = source.take(True, np.arange(4), None)
    whole, _ = registry.load("modalities", "image").plugin.encode(source.parts[True].take(np.arange(4)), source.eye.info.processor, State())
    assert np.array_equal(pixels["pixels"], whole["pixels"])
    for row, ids in enumerate(bare(source.reader, texts)):
        number = int(source.parts[True].listed.names[source.parts[True].indices[row]].split("/")[1].removesuffix(".png"))
        assert ROWS[number]["title"].startswith(source.reader.tokenizer.decode(ids)[:8])


def test_what_does_not_go_together_is_told(folder, tmp_path):
    data = str(folder / "rows.jsonl")
    towers = {"text": BERT, "image": CNN}
    cases = [
        (Material(data, ("picture", "title"), backbone=BERT), {}, "--backbone text=bert --backbone image=vit"),
        (Material(data, ("title", "body"), towers=towers), {}, "--backbone bert"),
        (Material(data, ("title", "body", "id"), backbone=BERT), {}, "found int"),
        (Material(data, ("picture", "picture"), backbone=CNN), {}, "two texts or of a text and a picture"),
        (Material(data, ("picture",), backbone=BERT), {}, "reads no pictures"),
        (Material(data, ("title",), backbone=CNN), {}, "reads no tokens"),
        (Material(data, backbone=BERT), {}, "several of the columns"),
        (Material(data, ("picture", "title"), towers=towers), {"projection": 0}, "two widths"),
        (Material(data, ("title",), backbone=BERT), {"views": "spans"}, "Known: dropout, neighbours, parts"),
        (Material(data, ("title",), backbone=BERT), {"views": "neighbours"}, "has learned nothing yet"),
        (Material(data, ("title",), backbone=BERT), {"views": "neighbours", "projection": 8}, "by the features themselves"),
        (Material(data, ("title",), backbone=BERT), {"temperature": -1}, "no number from 0 up"),
        (Material(data, ("title",), backbone=BERT), {"length": 2}, "hold no text"),
    ]

    def build(material, settings):
        made = contrastive.plugin({"held_out": 0.3, **settings})
        made.open(material)
        made.networks({}, State(), {})

    for number, (material, settings, message) in enumerate(cases):
        with pytest.raises(MainstemError, match=message):
            build(replace(material, folder=tmp_path / str(number)), settings)
