"""A series as the in-context network reads it: continuations that its own past suggests, and how each would have done. numpy only.

A network of patches copies an exact cycle badly, and classical rules do it by definition. So the window of a series is read by nineteen of
them (the last cycle, means of cycles, growth, autoregression …), the same rules forecast the last steps that are known, and the network
weighs and corrects what they say. Nothing here is learned or drawn: equal values give equal arrays.

Letters of shapes: n series, l steps of the context, h steps ahead, c candidates, k cycles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mainstem.contracts import Array

PATCH = 16  # steps a token
CONTEXT, HORIZON = 1024, 128  # most steps that are read, and told in one pass
CANDIDATES = 19
LOW, HIGH = 10, 11  # the candidates below and above which a fifth of the last cycles lie
CHANNELS = 5  # of a step of the context: value, whether seen, difference to one cycle ago for three periods
SUMMARY = CANDIDATES + 16
CALENDAR = (4, 7, 12, 24, 48, 52, 96, 144, 168, 365)  # periods that series often have: they win where two are as likely
_CYCLES = 8
_ORIGINS, _BACK = 3, 48  # of the trial on known steps: how often, and most steps each
_ROWS = 400  # most equations of an autoregression
_AT_ONCE = 1 << 17  # steps of series that are read together
_REACH = 60.0  # units; what lies beyond is cut


@dataclass(frozen=True)
class Reading:
    """What the network takes (`arrays`, float32) and how its answer is read: value = base + unit × answer.

    base [n, h] and unit [n, 1] float64; `floor` [n, 1]: 0 for a series that was never negative, else -inf.
    """

    arrays: dict[str, Array]
    base: Array
    unit: Array
    floor: Array

    @classmethod
    def of(cls, values: Array, horizon: int) -> Reading:
        """Series [n, l] with NaN for steps that are missing or before the start → what is read of the last CONTEXT steps, for the
        `horizon` next ones (rounded up to whole patches). How a series is read does not depend on the others."""
        values = np.asarray(values, np.float64)[:, -CONTEXT:]
        if not len(values):  # the shapes of one
            one = cls.of(np.zeros((1, values.shape[1])), horizon)
            return cls({name: array[:0] for name, array in one.arrays.items()}, one.base[:0], one.unit[:0], one.floor[:0])
        seen = np.isfinite(values)
        start = np.where(seen.any(axis=1), seen.argmax(axis=1), values.shape[1] - 1)
        groups = [rows for first in np.unique(start) for rows in _chunks(np.flatnonzero(start == first), values.shape[1])]
        if len(groups) < 2 and not start.any():
            return _read(values, horizon)
        parts = [_read(values[rows, start[rows[0]] :], horizon) for rows in groups]
        order = np.argsort(np.concatenate(groups), kind="stable")
        patches = -(-values.shape[1] // PATCH)
        for part in parts:
            context = part.arrays["context"]
            part.arrays["context"] = np.pad(context, ((0, 0), (patches - context.shape[1], 0), (0, 0)))

        def joined(name: str) -> Array:
            return np.asarray(np.concatenate([part.arrays[name] for part in parts])[order])

        rest = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("base", "unit", "floor"))
        return cls({name: joined(name) for name in parts[0].arrays}, *rest)

    def values(self, answer: Array) -> Array:
        """The network's answer [n, h, q] in the units of the series, float64."""
        told = self.base[:, : answer.shape[1], None] + self.unit[:, :, None] * answer
        return np.asarray(np.maximum(told, self.floor[:, :, None]))


def encoded(values: Array, units: Array, horizon: int) -> dict[str, Array]:
    """The arrays of a reading of windows [n, l], and "base" [n, h], "unit" and "floor" [n, 1] float64 for the answer in other `units`
    [n, 2] (center and scale of each window)."""
    reading = Reading.of(values, horizon)
    center, scale = units[:, :1], np.where(np.isnan(units[:, 1:]), 1.0, units[:, 1:])
    rest = {"base": (reading.base - center) / scale, "unit": reading.unit / scale, "floor": (reading.floor - center) / scale}
    return {**reading.arrays, **rest}


COMPUTED = ("context", "future", "level", "width", "summary", "base", "unit")


def _read(values: Array, horizon: int) -> Reading:
    """Of series that begin with the first step."""
    seen = np.isfinite(values)
    size = np.maximum(np.abs(np.where(seen, values, 0.0)).max(axis=1), 1e-290)[:, None]
    x = _filled(values / size, seen)
    n, length = x.shape
    start = np.zeros(n, np.int64)
    center = x.mean(axis=1, keepdims=True)
    spread = x.std(axis=1, keepdims=True)
    flat = spread < 1e-9
    spread = np.where(flat, np.maximum(np.abs(center), 1e-9), spread)
    found, alike = periods(x)
    steps = -(-horizon // PATCH) * PATCH
    told = candidates(x, start, found, steps)
    errors = _trial(x, seen, found)
    least = np.maximum(errors.min(axis=1, keepdims=True), 0.01 * spread)
    share = np.power(least / np.maximum(errors, least), 3.0)
    share = share / share.sum(axis=1, keepdims=True)
    base = (share[:, :, None] * told).sum(axis=1)
    unit = np.maximum((share * errors).sum(axis=1, keepdims=True), least)
    lags = [_back(x, start, found[:, j]) / unit for j in range(3)]
    channels = np.stack([(x - center) / spread, np.ones_like(x), *lags]) * seen
    edges = x[:, -1:], x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    summary = [
        np.log(unit / np.maximum(errors, least)),
        np.log(unit / least),
        np.log(found) / 5.0,
        alike,
        np.log(unit / spread),
        np.full((n, 1), np.log(length) / 5.0),
        1.0 - seen.mean(axis=1, keepdims=True),
        np.mean(x == 0, axis=1, keepdims=True),
        np.arcsinh(center / spread),
        *((edge - center) / spread for edge in edges),
        np.abs(np.diff(x, axis=1)).mean(axis=1, keepdims=True) / spread if length > 1 else np.zeros((n, 1)),
    ]
    arrays = {
        "context": _patches(np.arcsinh(channels)),
        "future": np.clip((told - base[:, None]) / unit[:, :, None], -_REACH, _REACH),
        "level": np.arcsinh((base - center) / spread),
        "width": _widths(x, start, found[:, 0], steps),
        "summary": np.clip(np.concatenate(summary, axis=1), -12.0, 12.0),
    }
    unit = np.where(flat, 0.01 * unit, unit)  # what never moved is told to stay, within a hair
    floor = np.where(np.where(seen, values, 0.0).min(axis=1, keepdims=True) >= 0, 0.0, -np.inf)
    return Reading({name: array.astype(np.float32) for name, array in arrays.items()}, base * size, unit * size, floor)


def _chunks(rows: Array, length: int) -> list[Array]:
    """The rows in parts that are read at once, so that memory does not grow with their number."""
    size = max(1, _AT_ONCE // length)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _patches(channels: Array) -> Array:
    """Channels [m, n, l] → [n, patches, PATCH × m], with zeros before the first step."""
    m, n, length = channels.shape
    padded = np.concatenate([np.zeros((m, n, -length % PATCH)), channels], axis=2)
    return padded.reshape(m, n, -1, PATCH).transpose(1, 2, 3, 0).reshape(n, -1, PATCH * m)


def _filled(values: Array, seen: Array) -> Array:
    """Gaps bridged by straight lines; 0 where there is no value at all."""
    x = values.copy()
    place = np.arange(values.shape[1])
    for i in np.flatnonzero(~seen.all(axis=1)):
        x[i] = np.interp(place, place[seen[i]], values[i, seen[i]]) if seen[i].any() else 0.0
    return x


def _mean(x: Array, weight: Array) -> Array:
    total: Array = (x * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)
    return total


def _at(x: Array, index: Array, start: Array) -> Array:
    """Values at index [n, …], where what is before the start is the first value."""
    n = len(x)
    flat = np.maximum(index.reshape(n, -1), start[:, None])
    return np.take_along_axis(x, flat, axis=1).reshape(index.shape)


def _back(x: Array, start: Array, period: Array) -> Array:
    """Difference to one period ago [n, l]; 0 where there is none."""
    index = np.arange(x.shape[1]) - period[:, None]
    return np.where(index >= start[:, None], x - _at(x, index, start), 0.0)


# --- periods ------------------------------------------------------------------------------------------------------------


def periods(x: Array) -> tuple[Array, Array]:
    """The likeliest period of each series [n, l], the best of the shorter and of the longer ones: int [n, 3], 1 where there is none;
    and the autocorrelations there, float [n, 3].

    Peaks of the autocorrelation of the values (less what moves slowly) and of their differences, by how far they stand out.
    """
    length = x.shape[1]
    most = max(2, length // 2)
    steps = np.diff(x, axis=1, prepend=x[:, :1])
    inside = np.ones(length)
    level = _correlation(_straightened(x), inside, most)
    inside[:1] = 0.0
    change = _correlation((steps - steps.sum(axis=1, keepdims=True) / max(1, length - 1)) * inside, inside, most)
    lags = np.arange(most + 1)
    score = np.where(lags < length // 2 + 1, np.maximum(_prominence(level), _prominence(change)), 0.0)
    share = np.maximum(1.0 - lags / length, 0.0)
    bonus = 0.06 * (np.isin(lags, CALENDAR) & (score > 0))
    score, long = score * np.power(share, 1.5) + bonus, score * np.sqrt(share) + bonus
    height = np.maximum(level, change)
    first = _least(score, height)
    shorter = _least(np.where(lags < 0.75 * first[:, None], score, 0.0), height)
    longer = np.where(lags > 1.25 * first[:, None], long, 0.0).argmax(axis=1)
    found = np.maximum(np.stack([first, shorter, longer], axis=1), 1)
    return found, np.take_along_axis(level, found, axis=1)


def _least(score: Array, height: Array) -> Array:
    """The least lag that scores nearly as well as the best, and is as much alike: a cycle rather than two of it."""
    best = score.argmax(axis=1)[:, None]
    near = score >= np.maximum(0.85 * np.take_along_axis(score, best, axis=1), 1e-9)
    near &= height >= 0.9 * np.take_along_axis(height, best, axis=1)
    return np.asarray(near.argmax(axis=1))


def _straightened(x: Array) -> Array:
    """Less its slow movements (a straight line, then a moving mean over a third), without extremes."""
    length = x.shape[1]
    place = np.arange(length) - (length - 1) / 2
    rest = x - x.mean(axis=1, keepdims=True)
    rest = rest - (rest * place).mean(axis=1, keepdims=True) / max(float((place * place).mean()), 1e-12) * place
    half = length // 6 + 1
    ends = np.clip(np.arange(length)[:, None] + (-half, half + 1), 0, length)
    sums = np.pad(np.cumsum(rest, axis=1), ((0, 0), (1, 0)))
    rest = rest - (sums[:, ends[:, 1]] - sums[:, ends[:, 0]]) / (ends[:, 1] - ends[:, 0])
    reach = 3.5 * np.sqrt(np.square(rest).mean(axis=1, keepdims=True))
    return np.asarray(np.clip(rest, -reach, reach))


def _correlation(x: Array, inside: Array, most: int) -> Array:
    """Autocorrelations [n, most + 1] of x [n, l], which is 0 outside (`inside` [l])."""
    size = 1 << (x.shape[1] + most).bit_length()

    def own(a: Array) -> Array:
        made: Array = np.fft.irfft(np.square(np.abs(np.fft.rfft(a, size))), size)[:, : most + 1]
        return made

    power, count = own(x), np.maximum(own(inside[None]), 1.0)
    power = power / count
    return np.clip(power / np.maximum(power[:, :1], 1e-12), -1.0, 1.0)


def _prominence(a: Array) -> Array:
    """How far each peak of a [n, lags] stands above the higher of the lowest points on its two sides; 0 where there is no peak."""
    peak = np.zeros_like(a, bool)
    peak[:, 2:-1] = (a[:, 2:-1] >= a[:, 1:-2]) & (a[:, 2:-1] > a[:, 3:]) & (a[:, 2:-1] > 0)
    left = np.minimum.accumulate(a, axis=1)
    right = np.minimum.accumulate(a[:, ::-1], axis=1)[:, ::-1]
    return np.where(peak, a - np.maximum(left, right), 0.0)


# --- candidates ---------------------------------------------------------------------------------------------------------


def candidates(x: Array, start: Array, found: Array, steps: int) -> Array:
    """Continuations [n, CANDIDATES, steps] of x [n, l] without gaps, for the periods found [n, 3]."""
    length = x.shape[1]
    inside = np.arange(length) >= start[:, None]
    ahead = np.arange(steps)
    flat = np.ones(steps)
    last = x[:, -1]
    fading = 0.8 ** np.arange(length)[::-1] * inside
    smooth = _mean(x, fading)
    recent = np.arange(length)[::-1] / np.maximum(length - start, 1)[:, None] < 0.5
    place = np.arange(length) - (length - 1.0)
    told = [np.outer(last, flat), np.outer(smooth, flat), np.outer(_mean(x, inside), flat)]
    middle = _mean(np.broadcast_to(place, x.shape), recent)
    offset = place - middle[:, None]
    slope = _mean((x - _mean(x, recent)[:, None]) * offset, recent) / np.maximum(_mean(offset * offset, recent), 1e-12)
    told.append(smooth[:, None] + 0.5 * slope[:, None] * (ahead + 1.0))
    for j in range(3):
        told += _seasonal(x, start, found[:, j], steps, kind=j)
    low, high = x.min(axis=1), x.max(axis=1)
    bounds = (low - (high - low))[:, None], (high + (high - low))[:, None]
    told += [np.clip(made, *bounds) for made in _autoregressions(x, start, found, steps)]
    return np.stack(told, axis=1)


def _cycles(x: Array, start: Array, period: Array, steps: int) -> tuple[Array, Array, Array, Array]:
    """The last cycles laid over the steps ahead: values [n, k, steps], their levels [n, k, 1], how much each counts [n, k, 1], and
    how many steps ahead lie in each cycle to come [n, steps]."""
    length = x.shape[1]
    ahead = np.arange(steps)
    phase = length - period[:, None] + ahead % period[:, None]
    back = np.arange(_CYCLES)[:, None] * period[:, None, None]
    values = _at(x, phase[:, None] - back, start)
    sums = np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1)], axis=1)
    ends = length - np.arange(_CYCLES + 1) * period[:, None]
    whole = np.take_along_axis(sums, np.maximum(ends, 0), axis=1)
    levels = ((whole[:, :-1] - whole[:, 1:]) / period[:, None])[:, :, None]
    counts = ((ends[:, 1:] >= start[:, None]) * 0.75 ** np.arange(_CYCLES))[:, :, None]
    counts[:, 0] = 1.0
    short = ends[:, 1] < start  # not one whole cycle: its level is that of what there is
    levels[short, 0, 0] = _mean(x, np.arange(length) >= start[:, None])[short]
    return values, levels, counts, ahead // period[:, None] + 1


def _seasonal(x: Array, start: Array, period: Array, steps: int, kind: int) -> list[Array]:
    """The last cycle and the mean of the last ones at today's level; but for the shorter period their median; and for the first with
    growth by a factor (a drift where values are not all above 0), with a drift, and what a fifth of them lie below and above."""
    values, levels, counts, cycle = _cycles(x, start, period, steps)
    total = counts.sum(axis=1)
    shape = ((values - levels) * counts).sum(axis=1) / total
    made = [values[:, 0], shape + levels[:, 0]]
    if kind == 1:
        return made
    ordered = np.sort(np.where(counts > 0, values, np.inf), axis=1)
    many = (counts > 0).sum(axis=1)[:, :, None]

    def among(share: float) -> Array:
        place = share * (many - 1)
        low = np.floor(place).astype(np.int64)
        below, above = (np.take_along_axis(ordered, at, axis=1)[:, 0] for at in (low, np.minimum(low + 1, many - 1)))
        return np.asarray(below + (place - low)[:, 0] * (above - below))

    made.append(among(0.5))
    if kind == 2:
        return made
    made.append((values * counts).sum(axis=1) / total)
    whole = np.clip((counts[:, :, 0] > 0).sum(axis=1) - 1, 0, 4)
    before = np.take_along_axis(levels[:, :, 0], whole[:, None], axis=1)
    drift = (levels[:, 0] - before) / np.maximum(whole, 1)[:, None]
    positive = (x.min(axis=1) > 1e-6)[:, None]
    safe = np.where(positive[:, :, None] & (counts > 0) & (levels > 0), levels, 1.0)
    ratio = (values / safe * counts).sum(axis=1) / total
    growth = np.clip(safe[:, 0] / np.where(positive & (before > 0), before, 1.0), 0.2, 5.0) ** (1.0 / np.maximum(whole, 1)[:, None])
    drifted = made[1] + drift * cycle
    grown = np.where(positive, ratio * safe[:, 0] * growth ** np.minimum(cycle, 6), drifted)
    return [*made, grown, drifted, among(0.2), among(0.8)]


def _autoregressions(x: Array, start: Array, found: Array, steps: int) -> list[Array]:
    """Two linear autoregressions with seasonal lags by ridge regression: of the values, and of their differences to a cycle ago."""
    length = x.shape[1]
    inside = np.arange(length) >= start[:, None]
    mean = _mean(x, inside)[:, None]
    scale = np.maximum(np.sqrt(_mean(np.square(x - mean), inside)), 1e-9)[:, None]
    z = (x - mean) / scale
    first, shorter, longer = found.T
    near = np.ones_like(first)
    lags = np.stack([near, 2 * near, 3 * near, 4 * near, first, first + 1, first + 2, 2 * first, shorter, longer], axis=1)
    of_values = _recursion(z, start, lags, np.zeros_like(first), steps)
    lags = np.stack([near, 2 * near, 3 * near, first, 2 * first, shorter, longer], axis=1)
    of_changes = _recursion(z, start, lags, first, steps)
    return [of_values * scale + mean, of_changes * scale + mean]


def _recursion(z: Array, start: Array, lags: Array, season: Array, steps: int) -> Array:
    """y_t = Σ weight × y_(t - lag), where y is z less its value `season` steps before (0: z itself), step by step ahead [n, steps]."""
    n, length = z.shape
    room = (length - 1 - start)[:, None]
    lags = np.minimum(lags, np.maximum(room - season[:, None], 1))
    y = _back(z, start, season) if season.any() else z
    begin = start + season
    targets = np.arange(max(0, length - _ROWS), length)
    usable = targets >= (begin + lags.max(axis=1))[:, None]
    taken = np.maximum(targets[:, None] - lags[:, None, :], 0)
    inputs = np.take_along_axis(y, taken.reshape(n, -1), axis=1).reshape(taken.shape)
    inputs = inputs * usable[:, :, None]
    count = usable.sum(axis=1)
    turned = inputs.transpose(0, 2, 1)
    square = turned @ inputs + (0.5 + 1e-3 * count)[:, None, None] * np.eye(lags.shape[1])
    size = np.square(y).mean(axis=1)[:, None, None] if season.any() else 1.0
    square = square + 1e-3 * size * np.eye(lags.shape[1])
    weight = np.linalg.solve(square, turned @ y[:, targets, None])[:, :, 0]
    longest = int(max(1, (lags.max(axis=1)).max(initial=1), season.max(initial=0)))
    y_all = np.concatenate([y[:, -longest:] if longest <= length else y, np.zeros((n, steps))], axis=1)
    z_all = np.concatenate([z[:, -longest:] if longest <= length else z, np.zeros((n, steps))], axis=1)
    offset = y_all.shape[1] - steps
    rows = np.arange(n)
    for h in range(offset, offset + steps):
        y_all[:, h] = np.clip((weight * y_all[rows[:, None], h - lags]).sum(axis=1), -30.0, 30.0)
        z_all[:, h] = y_all[:, h] + z_all[rows, h - season] if season.any() else y_all[:, h]
    return z_all[:, offset:]


# --- how they would have done ---------------------------------------------------------------------------------------------


def _trial(x: Array, seen: Array, found: Array) -> Array:
    """Mean absolute errors [n, CANDIDATES] of forecasts of the last steps, from three origins before them."""
    n, length = x.shape
    back = int(np.clip(length // 6, 1, _BACK))
    shift = np.repeat(back * np.arange(1, _ORIGINS + 1), n)
    index = np.arange(length) - shift[:, None]
    rows = np.tile(np.arange(n), _ORIGINS)
    begin = np.minimum(shift, length - 1)
    earlier = x[rows[:, None], np.maximum(index, 0)]
    told = candidates(earlier, begin, np.tile(found, (_ORIGINS, 1)), back)
    ahead = np.maximum(length - shift[:, None] + np.arange(back), 0)
    truth, counts = x[rows[:, None], ahead], seen[rows[:, None], ahead]
    missed = (np.abs(told - truth[:, None]) * counts[:, None]).sum(axis=2).reshape(_ORIGINS, n, -1).sum(axis=0)
    many = counts.sum(axis=1).reshape(_ORIGINS, n).sum(axis=0)
    return np.asarray(missed / np.maximum(many, 1)[:, None])


def _widths(x: Array, start: Array, period: Array, steps: int) -> Array:
    """How much neighbouring cycles differ at each step ahead [n, steps], relative to the mean over the cycle: narrow at night."""
    values, _, counts, _ = _cycles(x, start, period, steps)
    both = counts[:, 1:] > 0
    apart = (np.abs(np.diff(values, axis=1)) * both).sum(axis=1)
    pairs = both.sum(axis=1)
    apart = apart / np.maximum(pairs, 1)
    typical = apart.mean(axis=1, keepdims=True)
    ratio = (pairs * apart + 0.5 * typical) / np.maximum((pairs + 0.5) * typical, 1e-12)
    return np.where((typical > 1e-9) & (pairs > 0), np.clip(ratio, 0.03, 6.0), 1.0)
