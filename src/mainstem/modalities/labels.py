"""Several labels at once: a list, or one cell with the labels set apart by the setting "separator"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mainstem import schema
from mainstem.contracts import Array, Arrays, Json, Meta, Modality, State
from mainstem.errors import MainstemError
from mainstem.modalities.category import canonical, natural

Labels = tuple[str, ...]


def _pieces(raw: Any, separator: str) -> Iterable[Any]:
    if isinstance(raw, np.ndarray):
        return list(raw.reshape(-1))
    if isinstance(raw, list | tuple | set | frozenset):
        return raw
    if not isinstance(raw, str):
        return [raw]
    if raw.lstrip().startswith("["):  # a list as JSON, as frames with lists are saved
        try:
            return list(json.loads(raw))
        except (ValueError, RecursionError):
            pass
    if separator.isspace():
        return raw.split()
    return raw.split(separator) if separator else [raw]


class LabelsModality:
    """The modality of label sets. Setting "separator": what parts the labels of a text cell ("" or absent: nothing does)."""

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> Labels | None:
        """A cell → its labels in canonical spelling, sorted, each once; an empty list is no label, an empty cell is missing.

        Raises MainstemError where a label is not one plain value.
        """
        if schema.is_missing(raw):
            return None
        found = {canonical(piece) for piece in _pieces(raw, settings.get("separator") or "")}
        return tuple(natural(label for label in found if label is not None))

    def fit(self, settings: Mapping[str, Any], values: Sequence[Labels | None]) -> State:
        """All labels that occur, sorted."""
        return State({"values": natural({label for labels in values for label in labels or ()})})

    def encode(
        self, values: Sequence[Labels | None], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """→ {"hot": float32 [n, k]}, 1 for the labels a row has. Raises MainstemError for a label unseen in training."""
        codes = {label: code for code, label in enumerate(state.json["values"])}
        pairs = [(row, label) for row, labels in enumerate(values) for label in labels or ()]
        unseen = sorted({label for _, label in pairs if label not in codes})
        if unseen:
            raise MainstemError(f"the label '{unseen[0]}' was not among those learned", do=f"Known: {', '.join(list(codes)[:10])}.")
        hot = np.zeros((len(values), len(codes)), np.float32)
        hot[[row for row, _ in pairs], [codes[label] for _, label in pairs]] = 1
        return {"hot": hot}, {}

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[Labels]:
        """{"hot": [n, k]} → the labels at 0.5 and above."""
        known = state.json["values"]
        return [tuple(known[i] for i in np.flatnonzero(row >= 0.5)) for row in np.asarray(arrays["hot"])]

    def render(self, value: Labels | None, accept: str = "application/json") -> Json:
        """A JSON list of strings, or null."""
        return None if value is None else list(value)


plugin: Modality = LabelsModality()
