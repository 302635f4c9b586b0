"""masked-image: what the encoder sees, what the decoder is asked, which pictures are learned from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mainstem import registry
from mainstem.contracts import Material, Ref, State
from mainstem.errors import MainstemError
from mainstem.nn import autoencoder
from mainstem.objectives import masked_image
from mainstem.training.loop import tensors

SIZE = 16  # patches of 2 × 2: 8 by 8


def draw(folder, count, seed=0):
    """Pictures of noise in two class folders."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / ("even", "odd")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    ref = Ref("vit", "vit", settings={"size": SIZE})
    return Material(str(draw(folder / "data", 30)), folder=folder / "run", backbone=ref)


@pytest.fixture(scope="module")
def objective(material):
    return opened(material)


@pytest.fixture(scope="module")
def networks(objective):
    torch.manual_seed(0)
    return objective.networks({}, State(), {})


def opened(material, **settings):
    made = masked_image.plugin({"held_out": 0.3, **settings})
    made.open(material)
    return made


def test_the_encoder_sees_the_shown_patches_alone(objective, networks):
    batch = tensors(objective.stream(1).take(np.arange(3), np.random.default_rng(0)))
    pixels, shown = batch.inputs["image"]["pixels"], batch.target["shown"]
    assert shown.shape == (3, 16)  # a quarter of 64
    hidden = torch.ones(3, 64, dtype=torch.bool).scatter(1, shown, False)
    mask = hidden.view(3, 1, 8, 1, 8, 1).expand(3, 3, 8, 2, 8, 2).reshape(3, 3, SIZE, SIZE)
    module = networks["backbone"].eval()
    with torch.no_grad():
        seen = autoencoder.encode(module, pixels, shown)
        torch.testing.assert_close(autoencoder.encode(module, torch.where(mask, torch.zeros_like(pixels), pixels), shown), seen)
        assert not torch.allclose(autoencoder.encode(module, torch.where(mask, pixels, torch.zeros_like(pixels)), shown), seen)
        everything = torch.arange(64).expand(3, 64)
        torch.testing.assert_close(autoencoder.encode(module, pixels, everything), module.forward_features(pixels))


def test_the_decoder_is_asked_for_the_hidden_patches(objective, networks):
    batch = tensors(objective.held_out().take(np.arange(2)))
    pixels, shown = batch.inputs["image"]["pixels"], batch.target["shown"]
    decoder = autoencoder.Decoder(networks["backbone"], 32, 1, 3)
    with torch.no_grad():
        decoder.leave.weight.zero_()
        decoder.leave.bias.zero_()
        errors = decoder(autoencoder.encode(networks["backbone"], pixels, shown), shown, pixels)
        cut = autoencoder.cut(pixels, (2, 2)).double()
        assert torch.equal(cut[0, 9], pixels[0, :, 2:4, 2:4].permute(1, 2, 0).flatten().double())
        scaled = (cut - cut.mean(-1, keepdim=True)) / (cut.var(-1, keepdim=True) + 1e-6).sqrt()
        for row in range(2):
            rest = np.setdiff1d(np.arange(64), shown[row].numpy())
            assert float(errors[row]) == pytest.approx(float(scaled[row, rest].square().mean()), rel=1e-5)


def test_what_is_drawn_hangs_on_the_numbers_handed_in_alone(objective):
    stream, held_out = objective.stream(1), objective.held_out()
    first, again, other = (stream.take(np.arange(4), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.inputs["image"]["pixels"], again.inputs["image"]["pixels"])
    assert np.array_equal(first.target["shown"], again.target["shown"])
    assert not np.array_equal(first.inputs["image"]["pixels"], other.inputs["image"]["pixels"])
    together, alone = held_out.take(np.arange(3)), held_out.take(np.array([2]))
    assert np.array_equal(together.inputs["image"]["pixels"][2:], alone.inputs["image"]["pixels"])
    assert np.array_equal(together.target["shown"][2:], alone.target["shown"])
    assert (np.diff(first.target["shown"], axis=1) > 0).all()


def test_copies_stand_on_one_side_and_what_is_broken_is_left_out(material, tmp_path):
    data = draw(tmp_path / "data", 20)
    for path in sorted(data.rglob("*.png")):
        (data / "copies").mkdir(exist_ok=True)
        (data / "copies" / f"copy-{path.name}").write_bytes(path.read_bytes())
    (data / "odd" / "torn.png").write_bytes((data / "odd" / "1.png").read_bytes()[:200])
    told = []
    made = opened(replace(material, data=str(data), folder=tmp_path / "run", say=told.append))
    sides = [
        {album.listed.names[i].rpartition("/")[2].removeprefix("copy-") for i in album.indices} for album in (made.train, made.looked_at)
    ]
    assert not sides[0] & sides[1]
    assert len(made.train) + len(made.looked_at) == 40
    assert "1 of 41 pictures are left out" in told[0]
    assert "torn.png" in told[0]
    (data / "even" / "more.png").write_bytes((data / "even" / "0.png").read_bytes())
    with pytest.raises(MainstemError, match="differ from those of the run"):
        opened(replace(material, data=str(data), folder=tmp_path / "run"))


def test_a_table_names_pictures(material, tmp_path):
    data = draw(tmp_path, 24)
    names = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.png"))]
    (tmp_path / "table.csv").write_text("file,label\n" + "".join(f"{name},{name[:3]}\n" for name in names))
    made = opened(replace(material, data=str(tmp_path / "table.csv"), folder=tmp_path / "run"))
    assert len(made.train) + len(made.looked_at) == 24
    with pytest.raises(MainstemError, match="a folder of pictures with a table"):
        opened(replace(material, data=str(tmp_path), folder=tmp_path / "other"))


def test_what_does_not_go_together_is_told(material, tmp_path):
    (tmp_path / "texts.csv").write_text("text\nno picture at all\nand none here\n")
    (tmp_path / "empty").mkdir()
    other = Ref("resnet18", "resnet", "18", settings={"size": 32})
    cases = [
        ({"backbone": None}, {}, "--backbone vit"),
        ({"backbone": Ref("bert", "bert")}, {}, "reads no pictures"),
        ({"backbone": other}, {}, "no vision transformer"),
        ({"data": str(tmp_path / "texts.csv")}, {}, "names no pictures"),
        ({"data": str(tmp_path / "empty")}, {}, "holds pictures"),
        ({}, {"held_out": 0.0}, "none of the 30 pictures is held out"),
        ({}, {"hidden": 1}, "a part is shown"),
        ({}, {"hiden": 0.5}, "Did you mean 'hidden'"),
        ({}, {"flip": 1}, "neither true nor false"),
        ({}, {"layers": 1.5}, "whole number"),
    ]
    for number, (change, settings, message) in enumerate(cases):
        with pytest.raises(MainstemError, match=message):
            opened(replace(material, folder=tmp_path / str(number), **change), **settings).networks({}, State(), {})


def test_the_name_may_be_written_with_a_hyphen():
    assert registry.load("objectives", "masked-image") is masked_image
