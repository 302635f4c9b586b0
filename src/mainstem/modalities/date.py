"""Dates and times, as people and libraries write them → seconds since 1970 in UTC → the parts of the calendar that vary.

Forms: ISO 8601 (date, or date and time with zone), 2024/1/31, 31.01.2024, 1/31/2024, 2024年1月31日, 31 Jan 2024, January 31, 2024,
2024Q1, datetime, date, numpy and pandas time stamps. A time without a zone is taken as UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from numbers import Integral
from typing import Any

import numpy as np

from mainstem import schema
from mainstem.contracts import Array, Arrays, Json, Meta, Modality, State
from mainstem.errors import MainstemError
from mainstem.modalities import number

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?P<hour>\d{1,2})[:时点](?:(?P<minute>\d{1,2})(?:[:分](?P<second>\d{1,2})(?:[.,](?P<fraction>\d{1,9}))?)?)?[分秒]?"
    r" ?(?P<half>[AaPp]\.?[Mm]\.?)? ?(?P<zone>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?"
)
_DATES = (
    r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?:(?P=mark)(?P<day>\d{1,2}))?",
    r"(?P<year>\d{4}) ?年 ?(?P<month>\d{1,2}) ?月(?: ?(?P<day>\d{1,2}) ?[日号])?",
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})",
    r"(?P<first>\d{1,2})(?P<mark>[-/.])(?P<second_>\d{1,2})(?P=mark)(?P<year>\d{4})",
    r"(?:[A-Za-z]{3,9}, ?)?(?P<day>\d{1,2})(?:st|nd|rd|th)?[ -](?P<name>[A-Za-z]{3,9})\.?,?[ -](?P<year>\d{4})",
    r"(?P<name>[A-Za-z]{3,9})\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4})",
    r"(?P<year>\d{4})[ -]?[Qq](?P<quarter>[1-4])",
)
_FORMS = tuple(re.compile(f"{form}(?:{'' if '年' in form else '[T ,]'} ?{_CLOCK})?", re.ASCII) for form in _DATES)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_800.0  # years 1 to 9999: what ISO 8601 can write
_BARE = re.compile(r"\d+(?:\.\d+)?", re.ASCII)  # 20240131 and 2024.1 are dates only where the column was declared so

NAMES = ("days", "year", "month_sin", "month_cos", "day", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos")
_CYCLIC = {"month_sin", "month_cos", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos"}  # within -1..1 already


def looks_like(raw: Any) -> bool:
    """Whether a raw cell is a date beyond doubt; 1/2/2024 counts, though which is the day must be told (`settings_for`)."""
    if isinstance(raw, datetime | date | np.datetime64):
        return not schema.is_missing(raw)
    if not isinstance(raw, str) or schema.is_missing(raw) or _BARE.fullmatch(number.ascii_form(raw)):
        return False
    try:
        return _from_text(raw, day_first=None) is not None or _from_text(raw, day_first=True) is not None
    except ValueError:
        return False


def settings_for(raws: Iterable[Any]) -> dict[str, Any]:
    """What the cells of a column say about 1/2/2024: {"day_first": bool} where some cell decides it, else {}."""
    votes = set()
    for raw in raws:
        match = _FORMS[3].fullmatch(number.ascii_form(raw)) if isinstance(raw, str) else None
        if match and match["mark"] != ".":
            votes |= {True} if int(match["first"]) > 12 else {False} if int(match["second_"]) > 12 else set()
    return {"day_first": votes.pop()} if len(votes) == 1 else {}


def _from_text(text: str, day_first: bool | None) -> datetime | None:
    """None where the form is unknown, or day and month cannot be told apart. Raises ValueError for a day that does not exist."""
    text = number.ascii_form(text)
    match = next((m for m in (form.fullmatch(text) for form in _FORMS) if m), None)
    if match is None:
        return None
    found = match.groupdict()
    if "quarter" in found:
        found["month"], found["day"] = str(3 * int(found["quarter"]) - 2), "1"
    if "name" in found:
        found["month"] = str(1 + _MONTHS.index(found["name"][:3].lower()))
    if "first" in found:
        first, second = int(found["first"]), int(found["second_"])
        if day_first is None and found["mark"] != "." and first <= 12 and second <= 12 and first != second:
            return None
        is_day = found["mark"] == "." or first > 12 or (second <= 12 and bool(day_first))
        found["day"], found["month"] = (first, second) if is_day else (second, first)
    return datetime(int(found["year"]), int(found["month"]), int(found["day"] or 1), *_clock(found), tzinfo=_zone(found["zone"]))


def _clock(found: Mapping[str, Any]) -> tuple[int, int, int, int]:
    hour = int(found["hour"] or 0)
    if found["half"]:
        if not 1 <= hour <= 12:
            raise ValueError("hour")
        hour = hour % 12 + (12 if found["half"][0] in "pP" else 0)
    microsecond = int((found["fraction"] or "0")[:6].ljust(6, "0"))
    return hour, int(found["minute"] or 0), int(found["second"] or 0), microsecond


def _zone(text: str | None) -> timezone:
    if text is None or text[0] not in "+-":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    return timezone((-1 if text[0] == "-" else 1) * timedelta(hours=int(digits[:2]), minutes=int(digits[2:])))


def _seconds(moment: datetime) -> float:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) / 1_000_000


def _from_object(raw: Any) -> float | None:
    if hasattr(raw, "to_datetime64"):  # a pandas time stamp; its own datetime methods drop nanoseconds with a warning
        raw = raw.to_datetime64()
    if isinstance(raw, np.datetime64):
        return int(raw.astype("datetime64[us]").astype(np.int64)) / 1_000_000
    if isinstance(raw, date):
        return _seconds(raw if isinstance(raw, datetime) else datetime(raw.year, raw.month, raw.day))
    if isinstance(raw, Integral) and not isinstance(raw, bool) and 10_000_000 <= int(raw) <= 99_999_999:
        moment = _from_text(str(int(raw)), None)  # 20240131, as JSON and Parquet hold it
        return _seconds(moment) if moment else None
    return None


def _parts(values: Sequence[float | None]) -> Array:
    """float64 [n, 9]: the parts by `NAMES`, NaN where missing."""
    seconds = np.array([np.nan if v is None else v for v in values], np.float64)
    gaps = np.isnan(seconds)
    moments = np.floor(np.where(gaps, 0, seconds)).astype("datetime64[s]")
    days, months, years = (moments.astype(f"datetime64[{unit}]") for unit in "DMY")
    day_number, month_number, year_number = (a.astype(np.int64) for a in (days, months, years))
    turns = 2 * np.pi * np.stack([month_number % 12 / 12, (day_number + 3) % 7 / 7, seconds % 86_400 / 86_400])
    waves = [np.round(wave(turn), 9) for turn in turns for wave in (np.sin, np.cos)]  # processors differ in the last digit
    day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1.0
    parts = np.stack([seconds / 86_400, year_number + 1970.0, *waves[:2], day, *waves[2:]], axis=1)
    parts[gaps] = np.nan
    return parts


class Date:
    """The modality of dates and times. Setting "day_first": whether 1/2/2024 is in February; without it such a cell is refused."""

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> float | None:
        """A cell → seconds since 1970-01-01 UTC. Raises MainstemError for what is no date, and where day and month are unclear."""
        if schema.is_missing(raw):
            return None
        try:
            if isinstance(raw, str):
                moment = _from_text(raw, settings.get("day_first"))
                value = None if moment is None else _seconds(moment)
            else:
                value = _from_object(raw)
        except (ValueError, OverflowError):
            value = None
        if value is None or not _FIRST <= value < _LAST:
            if value is None and isinstance(raw, str) and looks_like(raw):
                raise MainstemError(f"which is the day in {schema.show(raw)}?", do="Write dates as 2024-01-31.")
            raise MainstemError(f"expected a date, found {schema.show(raw)}", do="Write it as 2024-01-31 or 2024-01-31T15:30:00+08:00.")
        return value

    def fit(self, settings: Mapping[str, Any], values: Sequence[float | None]) -> State:
        """Which parts vary over the values, with center and scale of those that are not within -1..1 already."""
        parts = _parts([v for v in values if v is not None])
        vary = [i for i, name in enumerate(NAMES) if i == 0 or (len(parts) and np.ptp(parts[:, i]) > 1e-9)]
        scales = [(0.0, 1.0) if NAMES[i] in _CYCLIC else number.spread(parts[:, i], "standard") for i in vary]
        return State({"names": [NAMES[i] for i in vary], "center": [c for c, _ in scales], "scale": [s for _, s in scales]})

    def encode(
        self, values: Sequence[float | None], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """→ {"value": float64 [n, k]}, one column for each of the state's names, NaN where missing."""
        parts = _parts(values)[:, [NAMES.index(name) for name in state.json["names"]]]
        return {"value": (parts - np.array(state.json["center"])) / np.array(state.json["scale"])}, {}

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[float | None]:
        """{"value": [n, k]} → seconds since 1970, from the first column."""
        days = np.asarray(arrays["value"], np.float64)[:, 0] * state.json["scale"][0] + state.json["center"][0]
        return [None if np.isnan(d) else float(d * 86_400) for d in days]

    def edges(self, settings: Mapping[str, Any], state: State) -> list[Any]:
        """Cells that another reader might take otherwise: missing ones, and a time in another zone, near the center."""
        days = int(np.clip(state.json["center"][0], _FIRST / 86_400 + 2, _LAST / 86_400 - 2))
        moment = _EPOCH + timedelta(days=days, hours=15, minutes=30)
        return [None, "N/A", moment.astimezone(timezone(timedelta(hours=8))).isoformat()]

    def render(self, value: float | None, accept: str = "application/json") -> Json:
        """ISO 8601 in UTC, without the time at midnight; or null."""
        if value is None:
            return None
        return (_EPOCH.replace(tzinfo=None) + timedelta(seconds=value)).isoformat().removesuffix("T00:00:00")


plugin: Modality = Date()
