"""Numbers: text in any ordinary form → float, scaled for networks. A missing value is None typed, NaN encoded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from mainstem import schema
from mainstem.contracts import Array, Arrays, Json, Meta, Modality, State
from mainstem.errors import MainstemError

_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_CODE = re.compile(r"[+-]?0\d", re.ASCII)  # 007 is a code: its zeros would be lost
_FULL_WIDTH = {0xFEE0 + code: code for code in range(0x21, 0x7F)} | {0x2212: ord("-"), 0x3000: ord(" ")}
_DASHES = frozenset({"-", "--", "---", "?", "–", "—"})
_EXACT_DIGITS = 15  # float64 holds every decimal number of so many digits
SCALINGS = ("standard", "minmax", "robust", "none")


def ascii_form(text: str) -> str:
    """The text without surrounding space, full-width signs and digits (１２．５) as the ASCII ones."""
    return (text if text.isascii() else text.translate(_FULL_WIDTH)).strip()


def is_missing(raw: Any) -> bool:
    """Whether a raw cell of a number column stands for "no value": what is missing everywhere, and dashes and question marks."""
    return schema.is_missing(raw) or (isinstance(raw, str) and raw.strip() in _DASHES)


def looks_like(raw: Any) -> bool:
    """Whether a raw cell is a number beyond doubt: not 007, not an id too long for float64, not True, not missing."""
    if isinstance(raw, bool | np.bool_) or is_missing(raw):
        return False
    if isinstance(raw, Integral):
        return bool(abs(int(raw)) < 10**_EXACT_DIGITS)
    if isinstance(raw, Real | Decimal):
        return bool(np.isfinite(float(raw)))
    if not isinstance(raw, str):
        return False
    text = ascii_form(raw)
    if _CODE.match(text) or (len(text) > _EXACT_DIGITS and text.lstrip("+-").isdigit()):
        return False
    return _number(text) is not None


def _number(text: str) -> float | None:
    """The number that an `ascii_form` text spells, None where it spells none or one beyond float64."""
    if not _PLAIN.fullmatch(text):
        if not _THOUSANDS.fullmatch(text):
            return None
        text = text.replace(",", "")
    value = float(text)
    return value if np.isfinite(value) else None


def _from_object(raw: Any) -> float | None:
    if isinstance(raw, bool | np.bool_) or not isinstance(raw, Real | Decimal):
        return None
    try:  # float32 0.1 is meant as 0.1, as every CSV writer spells it, not as 0.10000000149
        value = float(str(raw)) if isinstance(raw, np.floating) else float(raw)
    except OverflowError:
        return None
    return value if np.isfinite(value) else None


def spread(values: Array, scaling: str) -> tuple[float, float]:
    """(center, scale) of float64 [n] values without NaN; the scale of a constant is 1."""
    if scaling not in SCALINGS:
        raise MainstemError(f"there is no scaling '{scaling}'", do=f"Known: {', '.join(SCALINGS)}.")
    if scaling == "none" or not len(values):
        return 0.0, 1.0
    exponent = int(np.frexp(np.abs(values).max())[1])  # a power of two: exact, and keeps sums of huge numbers finite
    values, size = np.ldexp(values, -exponent), 1.0
    if scaling == "standard":
        center, scale = values.mean(), values.std()
    elif scaling == "minmax":
        center, scale = values.min(), np.ptp(values)
    else:
        low, center, high = np.percentile(values, (25, 50, 75))
        scale, size = high - low, max(abs(low), abs(high))
    limit = np.finfo(np.float64)
    if scale <= 10 * limit.eps * size:  # what rounding alone leaves of a constant
        return float(np.ldexp(center, exponent)), 1.0
    with np.errstate(over="ignore"):
        return float(np.ldexp(center, exponent)), float(np.clip(np.ldexp(scale, exponent), limit.tiny, limit.max))


class Number:
    """The modality of numbers. Setting "scaling": standard (default), minmax, robust or none."""

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> float | None:
        """A cell → float. Raises MainstemError for text that is no number, for True and False, and for infinity."""
        plain = isinstance(raw, str) and _PLAIN.fullmatch(raw)  # most cells are: the short way
        if not plain and is_missing(raw):
            return None
        value = _number(ascii_form(raw)) if isinstance(raw, str) else _from_object(raw)
        if value is None:
            raise MainstemError(f"expected a number, found {schema.show(raw)}", do="Mend it, or train with --column NAME=category.")
        return value + 0.0  # -0 is 0

    def fit(self, settings: Mapping[str, Any], values: Sequence[float | None]) -> State:
        """Center and scale of the values that are not missing."""
        known = np.array([v for v in values if v is not None], np.float64)
        center, scale = spread(known, settings.get("scaling", "standard"))
        return State({"center": center, "scale": scale})

    def encode(
        self, values: Sequence[float | None], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """→ {"value": float64 [n]}, scaled, NaN where missing."""
        raw = np.array([np.nan if v is None else v for v in values], np.float64)
        most = float(np.finfo(np.float32).max)  # what networks can hold
        with np.errstate(over="ignore"):
            return {"value": np.clip((raw - state.json["center"]) / state.json["scale"], -most, most)}, {}

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[float | None]:
        """{"value": [n]} → floats in the units of the data."""
        values = np.asarray(arrays["value"], np.float64) * state.json["scale"] + state.json["center"]
        return [None if np.isnan(v) else float(v) for v in values]

    def edges(self, settings: Mapping[str, Any], state: State) -> list[Any]:
        """Cells that another reader might take otherwise; the number is the center, so that outputs keep their size."""
        middle = f"{state.json['center']:.6g}"
        wide = "".join(chr(0xFEE0 + ord(sign)) for sign in middle)
        return [None, "N/A", "-", f" {float(middle):,} ", wide]

    def render(self, value: float | None, accept: str = "application/json") -> Json:
        """A JSON number, or null."""
        return value


plugin: Modality = Number()
