"""Checkpoints of a run: FOLDER/checkpoints/step-000123/ with state.json, arrays.safetensors and MANIFEST.json. No torch.

Written whole or not at all; the newest one that verifies wins; an older one goes only after the new one has verified
(RELIABILITY section 4, rule 2).
"""

from __future__ import annotations

import json as jsons
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mainstem import files
from mainstem.contracts import Array, Arrays
from mainstem.errors import MainstemError

FORMAT = 1
_STATE, _ARRAYS = "state.json", "arrays.safetensors"
_RAW = {2: np.uint16, 1: np.uint8}  # bfloat16 and its like have no numpy dtype: V2 and V1 are stored as these


class Checkpoint(NamedTuple):
    """A checkpoint as it was saved; the arrays are writable copies."""

    step: int
    json: dict[str, Any]
    arrays: dict[str, Array]


def save(folder: Path | str, step: int, json: Mapping[str, Any], arrays: Arrays, keep: int = 2) -> Path:
    """Write the state after `step` and remove all but the `keep` newest (at least 2). Returns the checkpoint's folder.

    Arrays keep their dtype and shape exactly (bool, integers, floats, complex64, V2 for bfloat16; also of no axis).
    Raises MainstemError on a full disk, and the checkpoints that were there stand.
    """
    from safetensors.numpy import save as pack

    path = Path(folder) / "checkpoints" / f"step-{step:06d}"
    raw = {name: array.dtype.itemsize for name, array in arrays.items() if array.dtype.kind == "V"}
    plain = {name: np.asarray(a.view(_RAW[raw[name]]) if name in raw else a, order="C") for name, a in arrays.items()}
    with files.folder(path, {"format": FORMAT, "step": step}) as made:
        made.add_json(_STATE, {"state": dict(json), "raw": raw})
        made.add(_ARRAYS, pack(plain))
    if wrong := files.broken(path):
        raise MainstemError(f"the disk does not hold what was written ({wrong[0]})", where=str(path), do="Use another disk.")
    for old in _found(path.parent)[: -max(2, keep)]:
        files.remove(old)
    return path


def load(folder: Path | str, *, mend: bool = True) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, None where there is none, and one line for each that was skipped.

    What was skipped or left half-written is removed; with mend=False nothing is touched, for readers beside a running writer.
    Raises MainstemError where a checkpoint is of a format that this version does not know.
    """
    from safetensors import SafetensorError

    parent = Path(folder) / "checkpoints"
    if mend:
        files.sweep(parent)
    skipped: list[str] = []
    for path in reversed(_found(parent)):
        try:
            wrong = files.broken(path)
            if not wrong:
                return _read(path), skipped
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
            wrong = [f"{type(error).__name__}"]
        except OSError as error:  # a disk that cannot be read may be read again later: skip it, keep it
            skipped.append(f"{path}: the checkpoint cannot be read ({error.strerror}), so it was skipped")
            continue
        skipped.append(f"{path}: the checkpoint is damaged ({wrong[0]}), so it was skipped{' and removed' if mend else ''}")
        if mend:
            files.remove(path)
    return None, skipped


def _found(parent: Path) -> list[Path]:
    """The folders of checkpoints, oldest first."""
    numbered = [(int(m[1]), p) for p in (parent.iterdir() if parent.is_dir() else ()) if (m := re.fullmatch(r"step-(\d+)", p.name))]
    return [path for _, path in sorted(numbered)]


def _read(path: Path) -> Checkpoint:
    from safetensors.numpy import load as unpack

    manifest = jsons.loads((path / files.MANIFEST).read_bytes())
    if manifest.get("format") != FORMAT:
        raise MainstemError(
            f"this checkpoint has format {manifest.get('format')}, this version of mainstem reads format {FORMAT}",
            where=str(path),
            do="Resume with the version that wrote it.",
        )
    held = jsons.loads((path / _STATE).read_bytes())
    arrays = {name: np.array(a, order="C") for name, a in unpack((path / _ARRAYS).read_bytes()).items()}
    for name, size in held["raw"].items():
        arrays[name] = arrays[name].view(np.dtype(f"V{size}"))
    return Checkpoint(manifest["step"], held["state"], arrays)
