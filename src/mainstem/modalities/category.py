"""Categories: one of some values that have no order. 3, 3.0 and "3" are one category, as are True and "TRUE"."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Any
from uuid import UUID

import numpy as np

from mainstem import schema
from mainstem.contracts import Array, Arrays, Json, Meta, Modality, State
from mainstem.errors import MainstemError

MISSING, UNSEEN, KNOWN = 0, 1, 2  # codes of a missing value, of one unseen in training, of the first known one
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,14})\.0", re.ASCII)  # an integer column with gaps is written like this
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


def canonical(raw: Any) -> str | None:
    """The one spelling of a category, the same for a CSV cell, a DataFrame cell and JSON; None where it is missing.

    Raises MainstemError for what is not one plain value (a list, bytes, a picture).
    """
    if schema.is_missing(raw):
        return None
    if isinstance(raw, str):
        return _canonical_text(raw)
    if isinstance(raw, bool | np.bool_):
        return "true" if raw else "false"
    if isinstance(raw, Real | Decimal):
        return spell(raw)
    if isinstance(raw, np.datetime64):
        raw = raw.astype("datetime64[us]").item()
    if isinstance(raw, datetime | date):
        return raw.isoformat().removesuffix("T00:00:00")
    if isinstance(raw, UUID):
        return str(raw)
    raise MainstemError(f"expected one category, found {schema.show(raw)}", do="Give text, a number, or true or false.")


def spell(raw: Any) -> str:
    """A number as text: whole numbers without a point, others in the shortest form that reads back to the same number."""
    if isinstance(raw, Integral):
        if int(raw).bit_length() > 1024:
            raise MainstemError("expected one category, found a number of hundreds of digits", do="Give it as text.")
        return str(int(raw))
    value = float(raw)
    if value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(raw) if isinstance(raw, np.floating) else repr(value)


def _canonical_text(raw: str) -> str:
    text = schema.checked(raw).strip()
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    if text.casefold() in ("true", "false"):
        return text.casefold()
    return str(int(text[:-2])) if _WHOLE.fullmatch(text) else text


def natural(values: Iterable[str]) -> list[str]:
    """Sorted: integers by size first, then the rest by name."""
    return sorted(values, key=lambda v: (0, int(v), v) if _INTEGER.fullmatch(v) else (1, 0, v))


class Category:
    """The modality of categories.

    Settings: "answer" (true: classes to be told apart, coded 0..k-1 in sorted order), "order" (frequency or sorted),
    "max_values" (255 for inputs: the rarest beyond it count as unseen).
    """

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> str | None:
        """A cell → its canonical spelling. Raises MainstemError for what is not one plain value."""
        return canonical(raw)

    def fit(self, settings: Mapping[str, Any], values: Sequence[str | None]) -> State:
        """The values that occur, in the order of their codes: most frequent first, or sorted."""
        answer = bool(settings.get("answer", False))
        counts = Counter(v for v in values if v is not None)
        ranked = sorted(counts, key=lambda v: (-counts[v], v))[: settings.get("max_values", None if answer else 255)]
        order = settings.get("order", "sorted" if answer else "frequency")
        return State({"values": natural(ranked) if order == "sorted" else ranked})

    def encode(
        self, values: Sequence[str | None], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """→ {"index": int64 [n]}: 0 missing, 1 unseen in training, 2… the known values.

        An answer has codes 0..k-1 alone, and a value unseen in training raises MainstemError.
        """
        if settings.get("answer", False):
            codes = {value: code for code, value in enumerate(state.json["values"])}
            unseen = sorted({str(v) for v in values if v not in codes})
            if unseen:
                known = ", ".join(state.json["values"][:10])
                raise MainstemError(f"the answer '{unseen[0]}' was not among those learned", do=f"Known: {known}.")
            return {"index": np.array([codes[v] for v in values], np.int64)}, {}
        codes = {value: code for code, value in enumerate(state.json["values"], KNOWN)}
        found = [MISSING if v is None else codes.get(v, UNSEEN) for v in values]
        return {"index": np.array(found, np.int64)}, {}

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[str | None]:
        """{"index": [n]} → values; None for the codes of missing and unseen."""
        first = 0 if settings.get("answer", False) else KNOWN
        known = state.json["values"]
        return [known[i - first] if i >= first else None for i in np.asarray(arrays["index"]).tolist()]

    def edges(self, settings: Mapping[str, Any], state: State) -> list[Any]:
        """Cells that another reader might take otherwise: missing ones, one unseen in training, a known one between spaces."""
        return [None, "N/A", "缺失", "unseen in training", *(f" {value} " for value in state.json["values"][:1])]

    def render(self, value: str | None, accept: str = "application/json") -> Json:
        """A JSON string, or null."""
        return value


plugin: Modality = Category()
