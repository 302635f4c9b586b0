"""Pictures to learn from: looked at once, parted by their bytes, then read again from disk whenever they are drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mainstem import files, registry
from mainstem.contracts import Array, Info, Material, Ref
from mainstem.data.pictures import Listed
from mainstem.errors import MainstemError
from mainstem.modalities.image import Picture

INDEX = "pictures.json"
PARTS = ("train", "held_out")
_ASKED = 64  # pictures between two questions whether to stop


@dataclass(frozen=True)
class Album:
    """One part of the pictures of a run. Nothing of them is held in memory but their names, and the texts beside them."""

    listed: Listed
    indices: Array
    taken: float = 1.0  # the share of all that were looked at

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Array) -> list[Picture]:
        """The pictures at `indices` (int [n]). Raises MainstemError for one that is gone."""
        return [_read(self.listed.base / self.listed.names[i]) for i in self.indices[indices].tolist()]

    def texts(self, indices: Array) -> list[str]:
        """The texts beside them."""
        return [self.listed.texts[i] for i in self.indices[indices].tolist()]


def described(ref: Ref, what: str) -> Info:
    """The Info of a backbone that reads pictures. Raises MainstemError for another."""
    info: Info = registry.load("backbones", ref.family).plugin.describe(ref)
    if info.modality != "image":
        raise MainstemError(f"the backbone '{ref.text}' reads no pictures", do=f"For example --backbone {what}.")
    return info


def opened(listed: Listed, material: Material, held_out: float) -> tuple[Album, Album]:
    """Look at every picture: to learn from, and held out. At once back where that is done.

    A picture is held out by its bytes, so that copies of it stand on one side; what cannot be read is left out, and said. Raises
    MainstemError where one of the parts is empty or the run was begun with other pictures, KeyboardInterrupt once it is stopped.
    """
    place, asked = material.folder / INDEX, {"pictures": _digest(listed), "held_out": held_out}
    if place.is_file():
        index = json.loads(place.read_bytes())
        if index.pop("asked") != asked:
            raise MainstemError(
                "the pictures differ from those of the run to resume", where=material.data, do="Start a new run without --resume."
            )
    else:
        index = _parted(listed, material, held_out)
        files.write_json(place, {"asked": asked, **index})
    taken = min(1.0, material.rows / max(1, len(listed.names))) if material.rows else 1.0
    train, looked_at = (Album(listed, np.array(index[part], np.int64), taken) for part in PARTS)
    if not len(train):
        raise MainstemError("there is no picture to learn from", where=material.data)
    if not len(looked_at):
        raise MainstemError(
            f"none of the {len(train):,} pictures is held out, and nothing would show how well others are read",
            where=material.data,
            do="Hold out a larger share: --set settings.held_out=0.1.",
        )
    material.say(f"to learn from: {len(train):,} pictures; held out: {len(looked_at):,}")
    return train, looked_at


def _parted(listed: Listed, material: Material, held_out: float) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    broken: list[str] = []
    for number, name in enumerate(islice(listed.names, material.rows or None)):
        if number % _ASKED == 0 and material.stopped():
            raise KeyboardInterrupt
        try:
            picture = _read(listed.base / name)
            picture.pixels()
        except MainstemError as error:
            broken.append(f"{error.where or listed.base / name}: {error.what}")
            continue
        parts[PARTS[_share(picture.data) < held_out]].append(number)
    if broken:
        material.say(f"{len(broken)} of {len(listed.names):,} pictures are left out, the first of them {broken[0]}")
    return parts


def _read(path: Path) -> Picture:
    try:
        return Picture(path.read_bytes())
    except (OSError, ValueError):
        raise MainstemError("there is no readable picture", where=str(path), do="Leave the files of a run where they are.") from None


def _share(data: bytes) -> float:
    """Where the bytes fall between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") / 2**64


def _digest(listed: Listed) -> str:
    """A hash of names, sizes and texts."""
    made = hashlib.blake2b(digest_size=16)
    texts: Sequence[str] = listed.texts or [""] * len(listed.names)
    for name, text in zip(listed.names, texts, strict=True):
        path = listed.base / name
        made.update(json.dumps([name, path.stat().st_size if path.is_file() else -1, text]).encode())
    return made.hexdigest()
