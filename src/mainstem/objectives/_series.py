"""Made series: trends, seasons of exact period, processes, noise, and what befalls them. numpy only.

A series is a sum or a product of parts, then bent, counted, thinned, shifted or torn as real ones are. The parts follow the published
priors (Dooley et al. 2023, ForecastPFN: trend × season × noise; Ansari et al. 2024, Chronos: compositions of Gaussian process kernels)
and add what these lack: arbitrary shapes repeated exactly, days that differ by weekday, cycles whose height varies from one to the next.

Letters of shapes: t steps, p steps of a period.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mainstem.contracts import Array

Random = np.random.Generator
PERIODS = (4, 5, 7, 12, 24, 48, 52, 96, 144, 168, 365)
_SHARES = (0.11, 0.03, 0.17, 0.19, 0.25, 0.06, 0.05, 0.05, 0.02, 0.04, 0.03)


def series(rng: Random, length: int) -> Array:
    """One series [t] float64, NaN where a step is missing; finite and not the same value throughout its first half."""
    while True:
        made = _whole(rng, length)
        head = made[: max(2, length // 2)]
        head = head[np.isfinite(head)]
        if len(head) and np.abs(head).max() < 1e9 and np.ptp(head) > 1e-9 * np.abs(head).max() and not np.isinf(made).any():
            return made


def _whole(rng: Random, t: int) -> Array:
    if rng.random() < 0.05:
        x = _intermittent(rng, t)
    elif rng.random() < 0.12:
        x = _sun(rng, t)
    else:
        x = _composed(rng, t)
    return _befallen(rng, x)


def _log_uniform(rng: Random, low: float, high: float, size: Any = None) -> Any:
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _scaled(x: Array) -> Array:
    x = x - x.sum() / len(x)
    spread = _spread(x)
    return x / spread if spread > 1e-12 else x


def _spread(x: Array) -> float:
    """The standard deviation (numpy's own checks cost more than the sum)."""
    mean = x.sum() / len(x)
    return float(np.sqrt(max(x @ x / len(x) - mean * mean, 0.0)))


# --- wholes -------------------------------------------------------------------------------------------------------------


def _composed(rng: Random, t: int) -> Array:
    """Trend, seasons, a process and noise: a sum, or a product (the exponential of a sum)."""
    signal = np.zeros(t)
    strength = np.ones(t)
    kind = rng.random()
    if kind < 0.8:
        seasons, strength = _seasons(rng, t)
        signal += seasons
    if rng.random() < 0.55 or kind > 0.95:
        signal += _log_uniform(rng, 0.1, 4.0) * _scaled(_trend(rng, t))
    if rng.random() < 0.55 or kind >= 0.8:
        signal += _log_uniform(rng, 0.05, 2.0) * _scaled(process(rng, t))
    spread = max(_spread(signal), 1e-3)
    noise = _noise(rng, t)
    if rng.random() < 0.3:
        noise = noise * strength
    x = signal + spread * _log_uniform(rng, 0.003, 1.2) * noise
    if rng.random() < 0.3:
        return np.asarray(np.exp(np.clip(_scaled(x) * _log_uniform(rng, 0.03, 1.0), -8.0, 8.0)))
    level = rng.choice((0.0, 1.0, -1.0), p=(0.3, 0.6, 0.1)) * _log_uniform(rng, 0.3, 50.0)
    return np.asarray(x / max(_spread(x), 1e-9) + level)


def _sun(rng: Random, t: int) -> Array:
    """Nothing at night and a hump by day, whose height differs by day and hour (solar power, footfall, calls)."""
    p = int(rng.choice((24, 24, 24, 48, 96, 12, int(rng.integers(8, 60)))))
    phase = (np.arange(t) + rng.integers(p)) % p
    open_share = rng.uniform(0.25, 0.75)
    place = phase / p / open_share
    shape = np.where(place < 1.0, np.sin(np.pi * np.minimum(place, 1.0)) ** _log_uniform(rng, 0.3, 3.0), 0.0)
    if rng.random() < 0.3:
        shape = shape * _profile(rng, p, positive=True)[phase]
    days = t // p + 2
    height = np.exp(_log_uniform(rng, 0.02, 0.7) * process(rng, days))
    if rng.random() < 0.5:
        height = np.minimum(height, rng.uniform(0.8, 1.5))
    height = height * _week(rng)[(np.arange(days) + rng.integers(7)) % 7]
    by_day = np.repeat(height, p)[:t]
    if rng.random() < 0.4:  # longer and shorter days
        by_day = by_day * (1.0 + rng.uniform(0.0, 0.6) * np.sin(2 * np.pi * (np.arange(t) / (365.0 * p) + rng.random())))
    cloud = np.exp(_log_uniform(rng, 0.01, 0.6) * process(rng, t))
    if rng.random() < 0.5:  # a clear sky is as clear as it gets
        cloud = np.minimum(cloud * by_day / by_day.max() * _log_uniform(rng, 0.7, 4.0), 1.0)
        by_day = np.ones(t)
    x = shape * by_day * cloud
    return np.asarray(x if rng.random() < 0.6 else np.minimum(x, np.quantile(x, rng.uniform(0.9, 1.0)) + 1e-6))


def _intermittent(rng: Random, t: int) -> Array:
    """Now and then some, else nothing (demand for spare parts)."""
    rate = np.clip(rng.uniform(0.05, 0.7) * np.exp(0.5 * process(rng, t)), 0.0, 1.0)
    if rng.random() < 0.5:
        rate = rate * _profile(rng, p := int(rng.choice((7, 12, 24))), positive=True)[np.arange(t) % p]
    size = np.ceil(np.exp(rng.uniform(0.0, 3.0) + rng.uniform(0.1, 1.0) * rng.standard_normal(t)))
    return np.where(rng.random(t) < rate, size, 0.0)


# --- parts --------------------------------------------------------------------------------------------------------------


def process(rng: Random, t: int) -> Array:
    """A stationary Gaussian process of spread 1, by its spectrum: autoregressive, smooth (Matérn), of long memory, nearly periodic."""
    size = 1 << (2 * t).bit_length()
    w = np.linspace(0.0, np.pi, size // 2 + 1)
    kind = rng.random()
    if kind < 0.35:  # AR(1) and ARMA(1, 1)
        root = 1.0 - _log_uniform(rng, 0.002, 1.2)
        power = 1.0 / np.abs(1.0 - root * np.exp(-1j * w))
        if rng.random() < 0.4:
            power = power * np.abs(1.0 + rng.uniform(-0.9, 0.9) * np.exp(-1j * w))
    elif kind < 0.6:  # AR(2) with a cycle
        radius, angle = 1.0 - _log_uniform(rng, 0.003, 0.3), 2 * np.pi / _log_uniform(rng, 3.0, max(8.0, t / 4))
        power = 1.0 / np.abs(1.0 - 2 * radius * np.cos(angle) * np.exp(-1j * w) + radius**2 * np.exp(-2j * w))
    elif kind < 0.85:  # Matérn
        corner = 2 * np.pi / _log_uniform(rng, 4.0, 2.0 * t)
        power = (1.0 + (w / corner) ** 2) ** (-rng.uniform(0.5, 2.5))
    else:  # long memory
        power = np.maximum(w, w[1]) ** (-rng.uniform(0.1, 1.0))
    shaken = power * (rng.standard_normal(len(w)) + 1j * rng.standard_normal(len(w)))
    shaken[0] = 0.0
    made = np.fft.irfft(shaken, size)
    return np.asarray(made[:t] / max(_spread(made), 1e-12))


def _trend(rng: Random, t: int) -> Array:
    place = np.linspace(-1.0, 1.0, t)
    kind = rng.integers(7)
    if kind == 0:
        return np.asarray(place * rng.choice((-1.0, 1.0)))
    if kind == 1:  # straight lines that meet
        knots = np.concatenate([[-1.0], np.sort(rng.uniform(-1.0, 1.0, rng.integers(1, 6))), [1.0]])
        return np.interp(place, knots, np.cumsum(rng.standard_normal(len(knots))))
    if kind == 2:  # growth
        return np.asarray(np.exp(rng.uniform(0.3, 3.0) * place) * rng.choice((-1.0, 1.0), p=(0.3, 0.7)))
    if kind == 3:  # saturation
        return np.asarray(np.tanh((place - rng.uniform(-0.8, 0.8)) * rng.uniform(1.0, 6.0)) * rng.choice((-1.0, 1.0)))
    steps = rng.standard_normal(t) if rng.random() < 0.7 else rng.standard_t(3.0, t)
    if kind == 6:  # whose slope wanders
        return np.cumsum(np.cumsum(steps) * rng.uniform(0.2, 1.0) / np.sqrt(t) + steps * rng.uniform(0.0, 3.0))
    return np.cumsum(steps + (kind - 4) * rng.normal(0.0, 0.2))


def _profile(rng: Random, p: int, *, positive: bool = False) -> Array:
    """The shape of one cycle [p], of mean 0 and spread 1 (of mean 1 and at least 0 where it is to be positive)."""
    place = np.arange(p) / p
    kind = rng.random()
    if kind < 0.35:  # harmonics
        many = int(rng.integers(1, max(2, min(8, p // 2)) + 1))
        order = np.arange(1, many + 1)
        waves = np.cos(2 * np.pi * np.outer(place, order) + rng.uniform(0, 2 * np.pi, many))
        x = waves @ (rng.standard_normal(many) / order ** rng.uniform(0.3, 1.5))
    elif kind < 0.55:  # any values
        x = rng.standard_normal(p) if rng.random() < 0.6 else rng.exponential(1.0, p)
    elif kind < 0.85:  # humps, as of a day
        x = np.zeros(p)
        for _ in range(rng.integers(1, 4)):
            apart = np.abs(place - rng.random())
            x += _log_uniform(rng, 0.2, 1.0) * np.exp(-0.5 * (np.minimum(apart, 1.0 - apart) / _log_uniform(rng, 0.02, 0.2)) ** 2)
        x += rng.uniform(0.0, 0.15) * rng.standard_normal(p)
    elif kind < 0.93:  # on and off
        x = (place < rng.uniform(0.1, 0.9)).astype(np.float64) + rng.uniform(0.0, 0.2) * rng.standard_normal(p)
    else:  # a peak
        x = np.zeros(p)
        x[: max(1, p // int(rng.integers(4, 25)))] = 1.0
    x = np.roll(x, rng.integers(p))
    if positive:
        x = x - x.min()
        return np.asarray(x / max(float(x.mean()), 1e-9))
    return _scaled(x)


def _week(rng: Random) -> Array:
    """Factors of seven days: all alike, five alike and two not, or any."""
    kind = rng.random()
    if kind < 0.4:
        return np.ones(7)
    if kind < 0.8:
        return np.where(np.arange(7) < 5, 1.0, rng.uniform(0.1, 1.3, 7))
    return np.exp(0.3 * rng.standard_normal(7))


def _seasons(rng: Random, t: int) -> tuple[Array, Array]:
    """One to three seasons, and where in the cycle there is more of everything [t], mean 1: noise may follow it."""
    fitting = [(p, share) for p, share in zip(PERIODS, _SHARES, strict=True) if 2.5 * p < t]
    if rng.random() < 0.75 and fitting:
        weights = np.array([share for _, share in fitting])
        p = int(rng.choice([p for p, _ in fitting], p=weights / weights.sum()))
    else:
        p = int(_log_uniform(rng, 2.0, max(4.0, t / 4)))
    p = max(2, p)
    steps = np.arange(t) + rng.integers(7 * p)
    phase, cycle = steps % p, steps // p
    shape = _profile(rng, p)
    strength = np.abs(shape - shape.min())
    strength = (strength / max(float(strength.mean()), 1e-9))[phase]
    x = shape[phase]
    daily = p in (12, 24, 48, 96, 144) and t > 9 * p
    if daily and rng.random() < 0.6:  # days of a week differ in height, or two of them in shape
        week = _week(rng)
        x = (x - shape.min()) * week[cycle % 7]
        if rng.random() < 0.5:
            other = _profile(rng, p)
            mixed = rng.uniform(0.0, 1.0) * (other - other.min()) + rng.uniform(0.0, 1.0) * (shape - shape.min())
            x = np.where(cycle % 7 < 5, x, mixed[phase])
    elif rng.random() < 0.2:  # a second one, of any other period
        q = int(rng.choice((7, 12, 24, 52))) if rng.random() < 0.6 else int(_log_uniform(rng, 2.0, max(4.0, t / 3)))
        x = x + _log_uniform(rng, 0.2, 2.0) * _profile(rng, q)[(np.arange(t) + rng.integers(q)) % q]
    change = rng.random()
    cycles = int(cycle[-1] - cycle[0]) + 2
    within = cycle - cycle[0]
    if rng.random() < 0.15 and cycles > 3:  # holidays: now and then a cycle is like another shape, or low
        low = shape * rng.uniform(0.0, 0.8) - rng.uniform(0.0, 1.0) if rng.random() < 0.7 else _profile(rng, p)
        rare = rng.random(cycles) < _log_uniform(rng, 0.01, 0.12)
        x = np.where(rare[within], low[phase], x)
    if change < 0.25 and cycles > 3:  # each cycle has a height of its own
        x = x * np.exp(_log_uniform(rng, 0.03, 0.5) * process(rng, cycles))[within]
    elif change < 0.4:  # it grows or fades
        x = x * np.exp(rng.normal(0.0, 0.7) * np.linspace(-1.0, 1.0, t))
    elif change < 0.5:  # it turns into another
        x = x + np.linspace(0.0, rng.uniform(0.2, 1.5), t) * _profile(rng, p)[phase]
    elif change < 0.55:  # it shifts by less than a step a cycle: a period that is no whole number
        real = p * (1.0 + rng.uniform(-0.4, 0.4) / p)
        x = np.interp((np.arange(t) % real) / real * p, np.arange(p + 1), np.append(shape, shape[0]))
    return _scaled(x), strength


def _noise(rng: Random, t: int) -> Array:
    kind = rng.random()
    if kind < 0.5:
        x = rng.standard_normal(t)
    elif kind < 0.65:
        x = rng.standard_t(rng.uniform(2.5, 8.0), t)
    elif kind < 0.75:
        x = (rng.exponential(1.0, t) - 1.0) * rng.choice((-1.0, 1.0))
    else:
        x = process(rng, t)
    if rng.random() < 0.25:  # quiet and loud times
        x = x * np.exp(rng.uniform(0.2, 0.8) * process(rng, t))
    return x


# --- what befalls them ----------------------------------------------------------------------------------------------------


def _befallen(rng: Random, x: Array) -> Array:
    """None, one or several of: shifts, bursts, cuts, counts, outliers, rounding, holes; then any unit and any sign."""
    for act, share in _ACTS:
        if rng.random() < share:
            x = act(rng, x)
    return np.asarray(x * _log_uniform(rng, 1e-3, 1e4) * (1.0 if rng.random() < 0.93 else -1.0))


def _outliers(rng: Random, x: Array) -> Array:
    hit = rng.random(len(x)) < _log_uniform(rng, 0.001, 0.03)
    return np.asarray(x + hit * _spread(x) * _log_uniform(rng, 1.0, 8.0) * rng.choice((-1.0, 1.0)) * rng.exponential(1.0, len(x)))


def _shifts(rng: Random, x: Array) -> Array:
    """The level steps, for good or for a while; or the series starts anew as another."""
    many, t = int(rng.integers(1, 4)), len(x)
    made = x.copy()
    for _ in range(many):
        at = int(rng.integers(t))
        end = t if rng.random() < 0.6 else min(t, at + int(_log_uniform(rng, 2.0, max(3.0, t / 5))))
        if rng.random() < 0.6:
            made[at:end] += rng.normal(0.0, 1.5) * _spread(x)
        else:
            made[at:end] *= _log_uniform(rng, 0.3, 2.5)
    return made


def _bursts(rng: Random, x: Array) -> Array:
    """Up or down at once, then slowly back."""
    t, made = len(x), x.copy()
    size, fade = _log_uniform(rng, 0.5, 6.0) * _spread(x), _log_uniform(rng, 1.0, max(2.0, t / 10))
    for at in np.flatnonzero(rng.random(t) < _log_uniform(rng, 1.0, 20.0) / t):
        made[at:] += size * rng.exponential() * np.exp(-np.arange(t - at) / fade)
    return made if rng.random() < 0.75 else 2 * x - made


def _cut(rng: Random, x: Array) -> Array:
    """Nothing below, or nothing above, some level."""
    if rng.random() < 0.7:
        low = np.quantile(x, rng.uniform(0.02, 0.6))
        return np.asarray(np.maximum(x - low, 0.0) if rng.random() < 0.8 else np.maximum(x, low))
    return np.asarray(np.minimum(x, np.quantile(x, rng.uniform(0.5, 0.98))))


def _counts(rng: Random, x: Array) -> Array:
    """Poisson counts, at rates that the series gives."""
    rate = x - x.min() if x.min() < 0 else x
    return np.asarray(rng.poisson(np.minimum(rate / max(float(rate.mean()), 1e-9) * _log_uniform(rng, 0.5, 300.0), 1e6)).astype(np.float64))


def _rounded(rng: Random, x: Array) -> Array:
    step = _spread(x) * _log_uniform(rng, 0.02, 0.7)
    return np.round(x / step) * step if step > 0 else x


def _holes(rng: Random, x: Array) -> Array:
    made = x.copy()
    if rng.random() < 0.6:
        made[rng.random(len(x)) < _log_uniform(rng, 0.005, 0.3)] = np.nan
    for _ in range(rng.integers(0, 3)):
        at = int(rng.integers(len(x)))
        made[at : at + int(_log_uniform(rng, 2.0, max(3.0, len(x) / 10)))] = np.nan
    return made


_ACTS: tuple[tuple[Callable[[Random, Array], Array], float], ...] = (
    (_shifts, 0.2),
    (_bursts, 0.1),
    (_cut, 0.12),
    (_counts, 0.12),
    (_outliers, 0.15),
    (_rounded, 0.1),
    (_holes, 0.12),
)
