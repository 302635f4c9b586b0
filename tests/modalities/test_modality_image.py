"""Pictures: the same pixels from every source, the transform of timm, and nothing that hurts a server."""

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from mainstem.contracts import State
from mainstem.errors import MainstemError
from mainstem.modalities import image

plugin = image.plugin
RNG = np.random.default_rng(0)
ARRAY = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)


def saved(picture, form="PNG", **options):
    """The bytes of a Pillow picture."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


PNG = saved(Image.fromarray(ARRAY))
BASE64 = base64.b64encode(PNG).decode()


def smooth(height, width):
    """uint8 [H, W, 3] that has both slopes and edges."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 * ((x // 9 + y // 7) % 2)], -1).astype(np.uint8)


def test_one_value_for_all_sources(tmp_path):
    (tmp_path / "p.png").write_bytes(PNG)
    base = {"base": tmp_path}
    raws = [PNG, bytearray(PNG), BASE64, f"data:image/png;base64,{BASE64}", "p.png", str(tmp_path / "p.png"), {"bytes": PNG, "path": None}]
    pictures = [plugin.parse(raw, base) for raw in [*raws, {"bytes": None, "path": "p.png"}, {"bytes": BASE64}]]
    assert pictures == [image.Picture(PNG)] * 9
    for raw in (ARRAY, Image.fromarray(ARRAY), pictures[0]):
        assert (plugin.parse(raw, {}).pixels() == ARRAY).all()
    assert plugin.parse(None, {}) is None


def test_a_server_opens_no_path(tmp_path):
    (tmp_path / "p.png").write_bytes(PNG)
    for raw in (str(tmp_path / "p.png"), "http://localhost/p.png", {"path": str(tmp_path / "p.png")}):
        with pytest.raises(MainstemError, match="as base64 or a data: URL"):
            plugin.parse(raw, {"base": None})
    with pytest.raises(MainstemError, match="not fetched"):
        plugin.parse("http://localhost/p.png", {"base": tmp_path})


@pytest.mark.parametrize("raw", ["missing.png", ".", "a\0b", "x" * 5000])
def test_paths_that_are_no_file(raw, tmp_path):
    with pytest.raises(MainstemError, match="no readable picture"):
        plugin.parse(raw, {"base": tmp_path})


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_cut_off_file_is_refused(form):
    data = saved(Image.fromarray(smooth(64, 64)), form)
    assert plugin.parse(data, {}).pixels().shape == (64, 64, 3)
    for part in (0.3, 0.7):
        with pytest.raises(MainstemError, match="corrupt"):
            plugin.parse(data[: int(len(data) * part)], {})


@pytest.mark.parametrize(
    "raw", [b"", b"hello", b"%PDF-1.4", saved(Image.fromarray(ARRAY), "TIFF"), 3, [1], np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8)]
)
def test_what_is_no_picture(raw):
    with pytest.raises(MainstemError):
        plugin.parse(raw, {})


def test_giants_are_refused_by_their_header():
    header = PNG[:16] + (30_000).to_bytes(4, "big") * 2 + PNG[24:29]
    data = header + zlib.crc32(header[12:]).to_bytes(4, "big") + PNG[33:]
    with pytest.raises(MainstemError, match="30000 × 30000 pixels"):
        plugin.parse(data, {})


def test_transparency_is_white_and_exif_turns():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (plugin.parse(saved(clear), {}).pixels() == 255).all()
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert (plugin.parse(saved(palette), {}).pixels() == 255).all()
    tag = Image.Exif()
    tag[0x0112] = 6
    turned = plugin.parse(saved(Image.fromarray(ARRAY), exif=tag), {}).pixels()
    assert (turned == np.rot90(ARRAY, -1)).all()


def test_grey_16_bit_and_cmyk():
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert (plugin.parse(saved(deep), {}).pixels()[..., 0].ravel() == np.arange(256)).all()
    grey = Image.fromarray(ARRAY[..., 0])
    assert (plugin.parse(saved(grey), {}).pixels() == ARRAY[..., :1]).all()
    assert plugin.parse(saved(Image.new("CMYK", (8, 8)), "JPEG"), {}).pixels().shape == (8, 8, 3)


@pytest.mark.parametrize("crop", [0.875, 1.0, "squash"])
@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_agrees_with_the_transform_of_timm(crop, resize, size):
    from timm.data import create_transform

    how = {"crop_pct": 1.0, "crop_mode": "squash"} if crop == "squash" else {"crop_pct": crop}
    theirs = create_transform((3, *size), is_training=False, interpolation=resize, mean=image.MEAN, std=image.STD, **how)
    pictures = [Image.fromarray(smooth(h, w)) for h, w in ((90, 131), (200, 77), (33, 20))]
    settings = {"size": size, "resize": resize, "crop": crop}
    values = [plugin.parse(picture, {}) for picture in pictures]
    ours = plugin.encode(values, settings, plugin.fit(settings, values))[0]["pixels"]
    assert ours.dtype == np.float32
    for picture, pixels in zip(pictures, ours, strict=True):
        np.testing.assert_allclose(theirs(picture).numpy(), pixels, atol=1e-5)


def test_another_filter_shows(monkeypatch):
    values = [plugin.parse(smooth(90, 131), {})]
    before = plugin.encode(values, {"size": [32, 32]}, plugin.fit({"size": [32, 32]}, values))[0]["pixels"]
    monkeypatch.setattr(image, "resample", lambda name: Image.Resampling.NEAREST)
    after = plugin.encode(values, {"size": [32, 32]}, plugin.fit({"size": [32, 32]}, values))[0]["pixels"]
    assert np.abs(before - after).max() > 0.1


def test_size_is_fitted_grey_and_missing_work():
    values = [plugin.parse(np.full((8, 9, 3), 255, np.uint8), {}), None]
    state = plugin.fit({}, values)
    assert state.json == {"size": [8, 8]}
    pixels = plugin.encode(values, {"channels": 1, "mean": [0.5], "std": [0.25]}, state)[0]["pixels"]
    assert pixels.shape == (2, 1, 8, 8)
    assert (pixels[0] == 2).all()
    assert (pixels[1] == 0).all()
    assert plugin.fit({}, [None]).json == {"size": [224, 224]}


def test_augments_with_a_generator_only_and_repeats():
    settings = {"size": [32, 32], "augment": {"flip": True, "crop": 0.5, "rotate": 20, "color": 0.3}}
    values = [plugin.parse(smooth(50, 60), {})] * 4
    state = plugin.fit(settings, values)
    plain, first, second = (
        plugin.encode(values, settings, state, rng)[0]["pixels"] for rng in (None, np.random.default_rng(1), np.random.default_rng(1))
    )
    assert (plain == plain[0]).all()
    assert (first == second).all()
    assert all(np.abs(first[i] - first[j]).max() > 0.1 for i in range(4) for j in range(i))
    flipped = {"size": [32, 32], "augment": {"flip": True}}
    seen = plugin.encode(values * 5, flipped, state, np.random.default_rng(0))[0]["pixels"]
    mirrored = [np.array_equal(one, plain[0][:, :, ::-1]) for one in seen]
    assert 0 < sum(mirrored) < 20


def test_a_view_may_turn_its_hue_or_lose_its_colours():
    values = [plugin.parse(smooth(50, 60), {})] * 6
    seen = {}
    for name, augment in (("plain", {}), ("hue", {"hue": 0.3}), ("grey", {"grey": 1.0})):
        settings = {"size": [50, 60], "augment": augment, "mean": [0, 0, 0], "std": [1, 1, 1]}
        seen[name] = plugin.encode(values, settings, State(), np.random.default_rng(3))[0]["pixels"]
    assert (seen["grey"] == seen["grey"][:, :1]).all()
    assert len(np.unique(seen["hue"].mean((2, 3)).round(3), axis=0)) >= 4
    np.testing.assert_allclose(seen["hue"].max(1), seen["plain"].max(1), atol=0.02)  # as bright as it was


def test_decode_and_render():
    settings = {"size": [40, 60]}
    values = [plugin.parse(PNG, {})]
    arrays, meta = plugin.encode(values, settings, plugin.fit(settings, values))
    assert (plugin.decode(arrays, meta, settings, plugin.fit(settings, values))[0].pixels() == ARRAY).all()
    assert plugin.parse(plugin.render(values[0]), {}) == values[0]
    assert plugin.render(values[0], "image/*") == ("image/png", PNG)
