"""Pictures: a path, bytes, base64, a data: URL, a Pillow picture or a uint8 array → float32 pixels as the backbone expects them.

Resizing and cropping follow the evaluation transform of torchvision and timm, so that features agree with theirs.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, ImageEnhance, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL import Image as pillow
from PIL.Image import Image, Resampling

from mainstem import schema
from mainstem.contracts import Array, Arrays, Json, Meta, Modality, State
from mainstem.errors import MainstemError

MOST_PIXELS = 40_000_000  # Pillow itself only warns, and only at 89 million
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's models expect
_READERS = (  # the formats read, by their first bytes; Pillow's other readers are never reached
    (b"\x89PNG\r\n\x1a\n", "image/png", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", "image/jpeg", JpegImagePlugin.JpegImageFile),
    (b"RIFF", "image/webp", WebPImagePlugin.WebPImageFile),
    (b"BM", "image/bmp", BmpImagePlugin.BmpImageFile),
    (b"GIF8", "image/gif", GifImagePlugin.GifImageFile),
)
_FORMATS = "PNG, JPEG, WebP, BMP or GIF"


@dataclass(frozen=True)
class Picture:
    """One picture as the bytes of its file."""

    data: bytes

    def open(self) -> Image:
        """The picture with only its header read. Raises MainstemError for other formats and above 40 million pixels."""
        reader = next((reader for start, _, reader in _READERS if self.data.startswith(start)), None)
        if reader is None:
            raise MainstemError("these bytes are no picture that mainstem reads", do=f"Give a {_FORMATS} file.")
        try:
            image = reader(io.BytesIO(self.data))
        except Exception as error:  # a parser on foreign bytes: whatever it raises means the same
            raise MainstemError("the picture is corrupt: its header cannot be read", do="Save it again.") from error
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise MainstemError(f"the picture has {width} × {height} pixels, more than {MOST_PIXELS:,}", do="Scale it down.")
        return image

    def pixels(self) -> Array:
        """uint8 [H, W, 3]: turned as its EXIF tag says, transparency on white. Raises MainstemError where the body is not whole."""
        image = self.open()
        try:
            image.load()
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))
        except Exception as error:
            raise MainstemError("the picture is corrupt or cut off", do="Save it again.") from error


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, whatever Pillow calls it
        values = np.asarray(image).astype(np.int64)
        return pillow.fromarray(np.clip(values // 256, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, (255, 255, 255, 255))
        return pillow.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_text(text: str, base: Path | None) -> bytes:
    """The bytes behind a data: URL, base64, or (only where the data lie on this machine) a path."""
    if text.startswith("data:"):
        head, _, body = text.partition(",")
        if not head.endswith(";base64"):
            raise MainstemError("the data: URL holds no base64", do="Write data:image/png;base64,….")
        return _base64(body)
    if _starts_like_picture(text):
        return _base64(text)
    if base is None:
        raise MainstemError("expected a picture as base64 or a data: URL", do="Send the bytes of the file; paths are not opened.")
    if text.startswith(("http://", "https://")):
        raise MainstemError("pictures are not fetched from the network", do="Download it, and give its path.")
    path = base / text
    try:
        if path.is_file():
            return path.read_bytes()
    except (OSError, ValueError):
        pass
    raise MainstemError(f"there is no readable picture {schema.show(text)}", do=f"Paths start from {base}.")


def _starts_like_picture(text: str) -> bool:
    try:
        start = base64.b64decode(text[:16], validate=True)
    except ValueError:
        return False
    return len(text) > 40 and start.startswith(tuple(s for s, *_ in _READERS))


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MainstemError("the base64 is broken", do="Encode the bytes of the file again.") from None


def _png(image: Image) -> bytes:
    """A picture in memory as lossless bytes."""
    if image.width * image.height > MOST_PIXELS:
        raise MainstemError(f"the picture has more than {MOST_PIXELS:,} pixels", do="Scale it down.")
    stream = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        (upright.convert("RGBA") if upright.has_transparency_data else _rgb(upright)).save(stream, "PNG", compress_level=1)
    except (OSError, ValueError) as error:  # a lazily opened file: closed, or cut off
        raise MainstemError("the picture cannot be read", do="Load it before handing it in.") from error
    return stream.getvalue()


def _from_array(array: Array) -> bytes:
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype != np.uint8 or 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        found = f"{array.dtype} {list(array.shape)}"
        raise MainstemError(f"expected an array uint8 [H, W], [H, W, 3] or [H, W, 4], found {found}", do="Convert it first.")
    return _png(pillow.fromarray(array))


def resample(name: str) -> Resampling:
    """The resize filter by its name: bilinear or bicubic. Every resize of this module asks here."""
    known = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}
    if name not in known:
        raise MainstemError(f"there is no resize filter '{name}'", do=f"Known: {', '.join(known)}.")
    return known[name]


def _fit_and_crop(image: Image, size: Sequence[int], crop: float | str, filter_name: str) -> Image:
    """Resize so that the middle `crop` of the shorter side is `size` [H, W], and cut that out; "squash" ignores the aspect."""
    height, width = size
    if crop == "squash":
        return image.resize((width, height), resample(filter_name))
    tall, wide = int(height / float(crop)), int(width / float(crop))
    whole = int if tall == wide else round  # torchvision cuts, timm rounds
    if tall * image.width >= wide * image.height:  # the width is to spare
        wide = whole(tall * image.width / image.height)
    else:
        tall = whole(wide * image.height / image.width)
    image = image.resize((wide, tall), resample(filter_name))
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _augmented(image: Image, augment: Mapping[str, Any], rng: np.random.Generator, filter_name: str) -> Image:
    """A random view of the picture: a part of its area, turned, mirrored, in other colours, as the settings ask."""
    smallest = float(augment.get("crop", 1.0))
    if smallest < 1:
        side = float(np.sqrt(rng.uniform(smallest, 1.0)))
        wide, tall = max(1, round(image.width * side)), max(1, round(image.height * side))
        left, top = int(rng.integers(image.width - wide + 1)), int(rng.integers(image.height - tall + 1))
        image = image.crop((left, top, left + wide, top + tall))
    if augment.get("rotate"):
        angle = float(rng.uniform(-1, 1)) * float(augment["rotate"])
        mean = tuple(int(v) for v in np.asarray(image).reshape(-1, 3).mean(axis=0))
        image = image.rotate(angle, resample(filter_name), fillcolor=mean)
    if augment.get("flip") and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return _recolored(image, augment, rng)


def _recolored(image: Image, augment: Mapping[str, Any], rng: np.random.Generator) -> Image:
    strength = float(augment.get("color", 0.0))
    if strength:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(float(rng.uniform(max(0.0, 1 - strength), 1 + strength)))
    if augment.get("hue"):
        shift = round(256 * float(augment["hue"]) * float(rng.uniform(-1, 1)))
        hue, *others = image.convert("HSV").split()
        turned = pillow.fromarray(np.asarray(hue) + np.uint8(shift % 256))  # the circle closes at 256
        image = pillow.merge("HSV", [turned, *others]).convert("RGB")
    if augment.get("grey") and rng.random() < float(augment["grey"]):
        image = image.convert("L").convert("RGB")
    return image


class ImageModality:
    """The modality of pictures.

    Settings: "size" [H, W] (absent: fitted), "resize" (bilinear or bicubic), "crop" (share of the shorter side that stays, or
    "squash"), "channels" (3, or 1 for grey), "mean" and "std" by channel, "augment" {"flip": bool, "crop": smallest share of the
    area, "rotate": degrees, "color": strength, "hue": share of the circle, "grey": probability}.
    """

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> Picture | None:
        """A cell → Picture, decoded once to see that it is whole.

        Paths start from settings["base"]; where that is None (a server) no path is opened. Raises MainstemError for what is
        no picture, is corrupt, cut off, or has more than 40 million pixels.
        """
        if schema.is_missing(raw):
            return None
        if isinstance(raw, Mapping):  # as Hugging Face's data sets hold pictures
            raw = raw.get("bytes") or raw.get("path")
            if raw is None:
                raise MainstemError("expected a picture under 'bytes'", do="Give the bytes of the file.")
        picture = Picture(self._bytes(raw, settings.get("base")))
        try:
            picture.pixels()
        except MainstemError as error:
            name = f": {schema.show(str(raw))}" if isinstance(raw, str | Path) and len(str(raw)) < 200 else ""  # no base64
            raise MainstemError(f"{error.what}{name}", do=error.do) from error
        return picture

    def _bytes(self, raw: Any, base: Path | None) -> bytes:
        if isinstance(raw, Path):
            raw = str(raw)
        if isinstance(raw, str):
            return _from_text(raw.strip(), base)
        if isinstance(raw, bytes | bytearray | memoryview):
            return bytes(raw)
        if isinstance(raw, Picture):
            return raw.data
        if isinstance(raw, Image):
            return _png(raw)
        if isinstance(raw, np.ndarray):
            return _from_array(raw)
        raise MainstemError(f"expected a picture, found {schema.show(raw)}", do=f"Give a {_FORMATS} file.")

    def fit(self, settings: Mapping[str, Any], values: Sequence[Picture | None]) -> State:
        """The size, where the settings leave it open: the median shorter side in steps of 8, from 8 to 224."""
        if "size" in settings:
            return State({"size": list(settings["size"])})
        sides = [min(picture.open().size) for picture in values if picture is not None]
        side = int(np.clip(np.ceil(np.median(sides) / 8) * 8, 8, 224)) if sides else 224
        return State({"size": [side, side]})

    def encode(
        self, values: Sequence[Picture | None], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """→ {"pixels": float32 [n, C, H, W]}, mean 0 and deviation 1 by the settings; a missing picture is all mean."""
        size, channels = settings.get("size") or state.json["size"], settings.get("channels", 3)
        mean, std = (np.array(settings.get(k, d[:channels]), np.float32) for k, d in (("mean", MEAN), ("std", STD)))
        pixels = np.zeros((len(values), channels, *size), np.float32)
        for row, picture in enumerate(values):
            if picture is not None:
                image = self._view(picture, size, settings, rng)
                shown = np.asarray(image.convert("L") if channels == 1 else image, np.float32).reshape(*size, channels)
                pixels[row] = ((shown / np.float32(255) - mean) / std).transpose(2, 0, 1)
        return {"pixels": pixels}, {}

    def _view(self, picture: Picture, size: Sequence[int], settings: Mapping[str, Any], rng: np.random.Generator | None) -> Image:
        image, filter_name = pillow.fromarray(picture.pixels()), settings.get("resize", "bilinear")
        if rng is not None and settings.get("augment"):
            image = _augmented(image, settings["augment"], rng, filter_name)
        return _fit_and_crop(image, size, settings.get("crop", 1.0), filter_name)

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[Picture]:
        """{"pixels": float32 [n, C, H, W]} → pictures, the normalisation undone."""
        pixels = np.asarray(arrays["pixels"], np.float32).transpose(0, 2, 3, 1)
        mean, std = (np.array(settings.get(k, d[: pixels.shape[3]]), np.float32) for k, d in (("mean", MEAN), ("std", STD)))
        bytes_ = np.clip(np.rint((pixels * std + mean) * 255), 0, 255).astype(np.uint8)
        return [Picture(_from_array(one)) for one in bytes_]

    def edges(self, settings: Mapping[str, Any], state: State) -> list[Any]:
        """Cells that another reader might take otherwise: a missing one, and an oblong picture that fades out."""
        high, wide = np.mgrid[0:48, 0:64]
        pixels = np.stack([high * 5, wide * 4, (high * wide) % 251, 255 - wide * 2], axis=2)
        return [None, _from_array(pixels.astype(np.uint8))]

    def render(self, value: Picture | None, accept: str = "application/json") -> Json | tuple[str, bytes]:
        """A data: URL; with `accept` "image/png" the media type and the bytes."""
        if value is None:
            return None
        kind = next(kind for start, kind, _ in _READERS if value.data.startswith(start))
        if accept.startswith("image/"):
            return kind, value.data
        return f"data:{kind};base64,{base64.b64encode(value.data).decode()}"


plugin: Modality = ImageModality()
