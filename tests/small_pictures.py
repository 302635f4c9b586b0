"""Small pictures of two kinds, in a folder a class."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int = 30, seed: int = 0) -> Path:
    """A folder of two class folders of pictures of 8 × 8 pixels: bright above, or bright below."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 90, (8, 8, 3))
        pixels[slice(4) if i % 2 else slice(4, 8)] += 150
        place = folder / ("above" if i % 2 else "below")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return folder
