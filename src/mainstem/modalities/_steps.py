"""The steps of a time series: how far apart they are, which step a time belongs to, which season they have, the calendar's numbers.

A time is a float: seconds since 1970 in UTC, or, for series that are numbered (1821, 1822, …), the number itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mainstem.contracts import Array

DAY = 86_400.0
YEAR = 365.25 * DAY
_PERIODS = (3600.0, DAY, 7 * DAY, YEAR)  # of seasons
_NOUNS = ((7 * DAY, "week"), (DAY, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))
_ON_TIME = 0.02  # of a step: nearer than that is on time
_REGULAR = 0.5  # share of the distances that are the commonest one; below, their median is the step
_LONGEST = 400  # season that is looked for where the step says nothing
_BETTER = 0.95  # of the error of a shorter season, for a longer one to be taken


@dataclass(frozen=True)
class Step:
    """The distance of neighbouring steps: `count` of a `unit`: second, weekday (Monday to Friday), month, number.

    end: months are named by their last day.
    """

    unit: str = "number"
    count: float = 1.0
    end: bool = False

    def index(self, times: Array, start: float) -> Array:
        """float64 [n]: the step each time belongs to, whole where it is on time; that of `start` is 0."""
        if self.unit == "month":
            months, first = (_moments(t).astype("datetime64[M]").astype(np.int64) for t in (times, np.array([start])))
            return np.asarray((months - first) / self.count)
        if self.unit == "weekday":
            days, first = (_moments(t).astype("datetime64[D]") for t in (times, np.array([start])))
            return np.asarray(np.busday_count(first, days), np.float64)
        return np.asarray((np.asarray(times, np.float64) - start) / self.count)

    def times(self, start: float, steps: Array) -> Array:
        """float64 [n]: the time of each of these steps (whole numbers), counted from `start`."""
        if self.unit == "month":
            return self._months(start, np.asarray(steps, np.int64))
        if self.unit == "weekday":
            first = _moments(np.array([start])).astype("datetime64[D]")
            days = np.busday_offset(first, np.asarray(steps, np.int64), roll="forward").astype("datetime64[s]")
            return np.asarray(days.astype(np.float64) + start % DAY)
        return np.asarray(start + np.asarray(steps, np.float64) * self.count)

    def _months(self, start: float, steps: Array) -> Array:
        first = _moments(np.array([start])).astype("datetime64[M]")
        months = first + (steps * int(self.count)).astype("timedelta64[M]")
        begin, following = (m.astype("datetime64[s]").astype(np.float64) for m in (months, months + np.timedelta64(1, "M")))
        within = start - first.astype("datetime64[s]").astype(np.float64)[0]
        last = following - begin - DAY  # the seconds from a month's begin to that of its last day
        day = last if self.end else np.minimum(within // DAY * DAY, last)
        return np.asarray(begin + day + within % DAY)

    @property
    def seconds(self) -> float:
        """Its length in seconds, about; NaN of a series that is numbered."""
        return {"second": 1.0, "weekday": 1.4 * DAY, "month": YEAR / 12}.get(self.unit, float("nan")) * self.count

    def json(self) -> dict[str, Any]:
        """For settings: Step(**json) is the same."""
        return asdict(self)

    def __str__(self) -> str:
        if self.unit == "second":
            count, noun = next((self.count / size, noun) for size, noun in _NOUNS if self.count % size == 0 or size == 1.0)
        elif self.unit == "month" and self.count % 12 == 0:
            count, noun = self.count / 12, "year"
        elif (self.unit, self.count) == ("month", 3.0):
            count, noun = 1.0, "quarter"
        elif self.unit == "number":
            return f"of {self.count:g}"
        else:
            count, noun = self.count, self.unit
        return f"every {noun}" if count == 1 else f"every {count:g} {noun}s"


def _moments(times: Array) -> Any:
    return np.floor(np.asarray(times, np.float64)).astype("datetime64[s]")


def infer(times: Sequence[Array], *, dates: bool) -> Step:
    """The step of series from their times (float64 [n] each, in order, without repeats); `dates`: times are seconds."""
    every = np.concatenate([np.asarray(t, np.float64) for t in times]) if times else np.zeros(0)
    distances = np.concatenate([np.diff(t) for t in times]) if times else np.zeros(0)
    if not len(distances):
        return Step("second", DAY) if dates else Step()
    if dates and (monthly := _monthly(every, times)):
        return monthly
    common = _commonest(distances)
    if not dates:
        return Step("number", common)
    days = _moments(every).astype("datetime64[D]")
    if common == DAY and np.is_busday(days).all() and (distances > DAY).any() and len(np.unique(every % DAY)) == 1:
        return Step("weekday", 1.0)
    return Step("second", common)


def _commonest(distances: Array) -> float:
    values, counts = np.unique(np.round(distances, 6), return_counts=True)
    common = values[counts.argmax()]
    return float(common if counts.max() >= _REGULAR * len(distances) else np.median(distances))


def _monthly(every: Array, times: Sequence[Array]) -> Step | None:
    """A step of whole months: all times name the same day of the month, or the last one."""
    moments = _moments(every)
    months = moments.astype("datetime64[M]")
    day = (moments - months.astype("datetime64[s]")).astype(np.float64)
    length = ((months + np.timedelta64(1, "M")).astype("datetime64[s]") - months.astype("datetime64[s]")).astype(np.float64)
    ends = bool((day // DAY == length // DAY - 1).all()) and len(np.unique(day)) > 1
    if not ends and len(np.unique(day)) > 1:
        return None
    apart = np.concatenate([np.diff(_moments(t).astype("datetime64[M]").astype(np.int64)) for t in times])
    count = _commonest(apart)
    return Step("month", float(max(1, round(count))), ends) if count >= 1 else None


def off_time(positions: Array) -> int:
    """How many of the steps `positions` (float [n]) lie between steps."""
    return int((np.abs(positions - np.round(positions)) > _ON_TIME).sum())


# --- seasons ----------------------------------------------------------------------------------------------------------


def season(step: Step, series: Sequence[Array], horizon: int) -> int:
    """The season in steps whose repetition has the least mean absolute error over `horizon` steps within these values; 1: none.

    series: float64 [n] each, NaN where missing. Candidates are the hour, day, week and year; for series whose step says
    nothing, the lag of the highest peak of the autocorrelation.
    """
    candidates = _of_calendar(step) or _of_peaks(series)
    best, least = 1, _naive_error(series, 1, horizon)
    for period in candidates:
        error = _naive_error(series, period, horizon)
        if error < _BETTER * least:
            best, least = period, error
    return best


def _of_calendar(step: Step) -> list[int]:
    if step.unit == "number":
        return []
    if step.unit == "weekday":
        return [5, 261]
    found = [round(period / step.seconds) for period in _PERIODS]
    return [period for period in dict.fromkeys(found) if period >= 2]


def _of_peaks(series: Sequence[Array]) -> list[int]:
    longest = max(series, key=len, default=np.zeros(0))
    known = np.where(np.isnan(longest), np.nanmean(longest), longest) if np.isfinite(longest).any() else longest
    lags = min(_LONGEST, len(known) // 3)
    if lags < 3:
        return []
    line = np.polyval(np.polyfit(np.arange(len(known)), known, 1), np.arange(len(known)))
    left = known - line
    total = (left**2).sum()
    if total <= 0:
        return []
    correlation = np.array([(left[lag:] * left[: len(left) - lag]).sum() / total for lag in range(lags + 1)])
    peaks = [k for k in range(2, lags) if correlation[k] > max(0.2, correlation[k - 1], correlation[k + 1])]
    return [max(peaks, key=lambda k: correlation[k])] if peaks else []


def _naive_error(series: Sequence[Array], period: int, horizon: int) -> float:
    """The mean over series and steps ahead of the error of "as it was so many whole seasons before", each series by its own size."""
    lags = [period * (1 + step // period) for step in range(horizon)]
    errors = []
    for values in series:
        size = np.nanmean(np.abs(np.diff(values))) if np.isfinite(values).sum() > 1 else np.nan
        usable = [lag for lag in lags if lag < len(values) - 1]
        if not usable or len(usable) < len(lags) or not np.isfinite(size):
            continue
        found = {lag: np.abs(values[lag:] - values[:-lag]) for lag in dict.fromkeys(usable)}
        means = [found[lag][~np.isnan(found[lag])].mean() if (~np.isnan(found[lag])).any() else np.nan for lag in usable]
        errors.append(np.mean(means) / (size or 1.0))
    return float(np.nanmean(errors)) if errors and np.isfinite(errors).any() else float("inf")


# --- the calendar -----------------------------------------------------------------------------------------------------


def phases(step: Step) -> tuple[str, ...]:
    """Which of day, week and year the steps of a series run through."""
    if step.unit == "number":
        return ()
    within = (("day", DAY), ("week", 7 * DAY), ("year", YEAR))
    return tuple(name for name, period in within if step.seconds < 0.6 * period)


def calendar(times: Array, step: Step) -> Array:
    """float64 [n, 2·phases]: sine and cosine of the place within each of `phases`; exact to nine digits on any machine."""
    names = phases(step)
    if not names:
        return np.zeros((len(times), 0))
    moments = _moments(times)
    years = moments.astype("datetime64[Y]")
    turns = {
        "day": times % DAY / DAY,
        "week": (times / DAY + 3) % 7 / 7,  # from Monday
        "year": (times - years.astype("datetime64[s]").astype(np.float64)) / (366 * DAY),
    }
    return np.column_stack([np.round(wave(2 * np.pi * turns[name]), 9) for name in names for wave in (np.sin, np.cos)])
