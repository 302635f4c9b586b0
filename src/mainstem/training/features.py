"""Features of frozen backbones, computed once and kept by what they depend on: weights, encoding, feature, row."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mainstem import artifact, files
from mainstem.contracts import Array
from mainstem.errors import MainstemError

Compute = Callable[[Sequence[int]], Array]
ABANDONED = 3600.0  # seconds after which a half-written file is that of a killed run, not of one that is at work


def folder() -> Path:
    """Where features are kept between runs: $MAINSTEM_CACHE, or the user's cache folder."""
    base = os.environ.get("MAINSTEM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mainstem"
    return Path(base) / "features"


def cached(weights_id: str, encode_id: str, feature: str, hashes: Sequence[str], compute: Compute) -> Array:
    """The feature of each row in order, float32 [rows, …]. `compute` is asked for the rows (by position) that are not kept yet.

    A cache that cannot be read or written costs time, never the run.
    """
    path = folder() / f"{weights_id}-{encode_id}-{feature}.safetensors"
    known, values = _read(path)
    places = {row: i for i, row in enumerate(known)}
    fresh: dict[str, int] = {}
    for i, row in enumerate(hashes):
        if row not in places and row not in fresh:
            fresh[row] = i
    if fresh:
        made = compute(list(fresh.values()))
        values = made if values is None else np.concatenate([values, made])
        known = [*known, *fresh]
        places = {row: i for i, row in enumerate(known)}
        _keep(path, known, values)
    if values is None:
        return np.zeros((0, 0), np.float32)
    return np.asarray(values[[places[row] for row in hashes]])


def _read(path: Path) -> tuple[list[str], Array | None]:
    try:
        kept = artifact.read_arrays(path)
        rows = [row.tobytes().hex() for row in kept["rows"]]
        return (rows, kept["values"]) if len(rows) == len(kept["values"]) else ([], None)
    except (MainstemError, KeyError):
        return [], None


def _keep(path: Path, rows: Sequence[str], values: Array) -> None:
    packed = np.frombuffer(bytes.fromhex("".join(rows)), np.uint8).reshape(len(rows), -1)
    try:
        files.sweep(path.parent, older=ABANDONED)
        files.write_bytes(path, artifact.pack_arrays({"rows": packed, "values": values}))
    except MainstemError:
        return
