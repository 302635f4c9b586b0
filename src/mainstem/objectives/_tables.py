"""Made tables: random causes, a random function of them, columns and answers as real tables have them. numpy only.

Letters of shapes: n rows, m causes, c columns. The kinds of function follow the published priors (Müller et al. 2022, PFNs; Hollmann
et al. 2023 and 2025, TabPFN: structural causal models; Qu et al. 2025, TabICL: trees) and add generalised additive ones and clusters,
where the answer causes the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainstem.contracts import Array

Random = np.random.Generator
MOST_CLASSES = 10
MOST_CODES = 30  # values of a category


@dataclass(frozen=True)
class Made:
    """One table. `numbers` [n, c] float64 with NaN where missing; `codes` [n, c] int64: 1 and up for values of a category, 0 missing,
    in columns where `categories` [c] holds; `answer` [n]: float64, or classes from 0 where `classes` is not 0."""

    numbers: Array
    codes: Array
    categories: Array
    answer: Array
    classes: int


def table(rng: Random, rows: int, columns: int, regression: bool, known: int) -> Made:
    """A table whose first `known` rows have at least two different answers (each class that occurs among the others too)."""
    while True:
        kind = _KINDS[rng.choice(len(_KINDS), p=_SHARES)]
        features, scores = kind(rng, rows, columns)
        answer, classes = _values(rng, scores) if regression else _classes(rng, scores)
        if np.all(np.isfinite(answer)) and np.ptp(answer[:known]) > 1e-9 and (regression or np.isin(answer[known:], answer[:known]).all()):
            break
    numbers, codes, categories = _columns(rng, features)
    return Made(numbers, codes, categories, answer, classes)


# --- functions: → features [n, c] and scores [n, s], both to be dressed ---------------------------------------------------


def _log_uniform(rng: Random, low: float, high: float, size: Any = None) -> Any:
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _scaled(x: Array) -> Array:
    """Columns of mean 0 and spread 1 (0 where they are constant), free of extremes that would drown all else."""
    x = x - x.mean(axis=0)
    spread = x.std(axis=0)
    return np.clip(x / np.where(spread > 1e-9, spread, 1.0), -8.0, 8.0)


def _causes(rng: Random, n: int, m: int) -> Array:
    """[n, m]: normal, uniform, of a mixture, heavy-tailed; independent, or sharing a few factors."""
    x = rng.standard_normal((n, m))
    kinds = rng.choice(4, size=m, p=(0.55, 0.2, 0.15, 0.1))
    for j in np.flatnonzero(kinds):
        if kinds[j] == 1:
            x[:, j] = rng.uniform(-1.7, 1.7, n)
        elif kinds[j] == 2:
            centers = rng.normal(0.0, 2.0, rng.integers(2, 6))
            x[:, j] = centers[rng.integers(len(centers), size=n)] + 0.3 * x[:, j]
        else:
            x[:, j] = x[:, j] * np.exp(0.7 * rng.standard_normal(n))
    if m > 1 and rng.random() < 0.5:
        factors = rng.standard_normal((n, max(1, m // 3)))
        x = x + _log_uniform(rng, 0.2, 2.0) * factors @ rng.standard_normal((factors.shape[1], m))
    return _scaled(x)


_ACTIVATIONS: tuple[Callable[[Array], Array], ...] = (
    np.tanh,
    lambda x: x,
    lambda x: np.maximum(x, 0.0),
    np.sin,
    np.abs,
    np.square,
    np.sign,
    lambda x: np.exp(-np.square(x)),
    lambda x: 1.0 / (1.0 + np.exp(-4.0 * x)),
    lambda x: np.where(x > 0, x, 0.1 * x),
)


def _outputs(rng: Random) -> int:
    """How many scores a function has: one, or one for each of several classes."""
    return 1 if rng.random() < 0.65 else int(rng.integers(2, MOST_CLASSES + 1))


def _network(rng: Random, n: int, c: int) -> tuple[Array, Array]:
    """A structural causal model: layers of noisy nodes; columns and scores are nodes of any layer."""
    width, depth = int(rng.integers(max(4, c // 2), 2 * c + 10)), int(rng.integers(2, 6))
    noise, sparse = _log_uniform(rng, 0.005, 0.3), rng.uniform(0.0, 0.7)
    one = rng.random() < 0.4
    act = _ACTIVATIONS[rng.integers(len(_ACTIVATIONS))]
    h = _causes(rng, n, int(rng.integers(2, max(3, c) + 1)))
    layers = [h]
    for _ in range(depth):
        weight = rng.standard_normal((h.shape[1], width)) * (rng.random((h.shape[1], width)) > sparse)
        act = act if one else _ACTIVATIONS[rng.integers(len(_ACTIVATIONS))]
        h = act(_scaled(h @ weight) * _log_uniform(rng, 0.5, 2.0, width) + 0.5 * rng.standard_normal(width))
        h = _scaled(h) + noise * rng.standard_normal(h.shape)
        layers.append(h)
    nodes = np.concatenate(layers if rng.random() < 0.7 else layers[:1] + layers[-1:], axis=1)
    s = _outputs(rng)
    if nodes.shape[1] < c + s:
        nodes = np.concatenate([nodes, rng.standard_normal((n, c + s - nodes.shape[1]))], axis=1)
    if rng.random() < 0.6:  # columns are the causes, scores the effects, and not anything of anything
        first, last = np.arange(nodes.shape[1] - s), np.arange(nodes.shape[1] - s, nodes.shape[1])
        return nodes[:, rng.permutation(first)[:c] if rng.random() < 0.5 else first[:c]], nodes[:, last]
    picked = rng.permutation(nodes.shape[1])[: c + s]
    return nodes[:, picked[:c]], nodes[:, picked[c:]]


def _weighted(rng: Random, c: int) -> Array:
    """How much each column matters: many hardly, a few much."""
    weight: Array = rng.gamma(_log_uniform(rng, 0.2, 3.0), size=c)
    return weight / float(max(np.sqrt(np.square(weight).sum()), 1e-9))


def _additive(rng: Random, n: int, c: int) -> tuple[Array, Array]:
    """A generalised additive model, linear in most columns, with a few products of two."""
    x = _causes(rng, n, c)
    s = _outputs(rng)
    scores = np.zeros((n, s))
    bent = rng.uniform(0.0, 1.0) if rng.random() < 0.6 else 0.0
    basis = x.copy()
    for j in np.flatnonzero(rng.random(c) < bent):
        basis[:, j] = _ACTIVATIONS[rng.integers(len(_ACTIVATIONS))](x[:, j] * rng.uniform(0.5, 2.0) + rng.normal())
    basis = _scaled(basis)
    for k in range(s):
        scores[:, k] = basis @ (_weighted(rng, c) * rng.choice((-1.0, 1.0), c))
        if c > 1 and rng.random() < 0.4:
            for _ in range(rng.integers(1, 4)):
                a, b = rng.choice(c, 2, replace=False)
                scores[:, k] += rng.normal(0.0, 0.5) * x[:, a] * x[:, b]
    return x, scores


def _trees(rng: Random, n: int, c: int) -> tuple[Array, Array]:
    """A sum of random trees, whose levels share a split (oblivious trees), on few or many columns."""
    x = _causes(rng, n, c)
    s = _outputs(rng)
    scores = np.zeros((n, s))
    share = _weighted(rng, c) + 1e-6
    share /= share.sum()
    for _ in range(int(_log_uniform(rng, 1, 30))):
        depth = int(rng.integers(1, 6))
        chosen = rng.choice(c, depth, p=share)
        cuts = x[rng.integers(n, size=depth), chosen]
        leaf = ((x[:, chosen] > cuts) << np.arange(depth)).sum(axis=1)
        scores += rng.standard_normal((1 << depth, s))[leaf]
    return x, scores


def _smooth(rng: Random, n: int, c: int) -> tuple[Array, Array]:
    """A draw from a Gaussian process with a length scale for each column, by random Fourier features (Rahimi and Recht 2007)."""
    x = _causes(rng, n, c)
    s, many = _outputs(rng), 64
    frequency = rng.standard_normal((c, many)) * (_weighted(rng, c) * _log_uniform(rng, 0.5, 4.0))[:, None]
    waves = np.cos(x @ frequency + rng.uniform(0.0, 2 * np.pi, many))
    return x, waves @ rng.standard_normal((many, s))


def _clusters(rng: Random, n: int, c: int) -> tuple[Array, Array]:
    """Groups of rows, each with its own centre and spread; a score for each class, that the groups belong to."""
    groups = int(rng.integers(2, 13))
    group = rng.choice(groups, n, p=rng.dirichlet(np.full(groups, rng.uniform(0.7, 4.0))))
    centers = rng.standard_normal((groups, c)) * (_weighted(rng, c) * np.sqrt(c) * _log_uniform(rng, 0.3, 3.0))
    spread = _log_uniform(rng, 0.4, 1.6, (groups, 1)) * _log_uniform(rng, 0.6, 1.5, c)
    x = centers[group] + spread[group] * rng.standard_normal((n, c))
    if c > 1 and rng.random() < 0.5:
        x = x + 0.5 * x @ rng.standard_normal((c, c)) / np.sqrt(c)
    return _scaled(x), rng.standard_normal((groups, _outputs(rng)))[group]


_KINDS = (_network, _additive, _trees, _smooth, _clusters)
_SHARES = (0.35, 0.27, 0.18, 0.1, 0.1)


# --- answers ----------------------------------------------------------------------------------------------------------


def _values(rng: Random, scores: Array) -> tuple[Array, int]:
    y = _scaled(scores)[:, 0] + _log_uniform(rng, 0.01, 2.0) * rng.standard_normal(len(scores))
    if rng.random() < 0.3:
        y = np.exp(_scaled(y[:, None])[:, 0] * rng.uniform(0.2, 1.2))
    elif rng.random() < 0.15:
        y = y + (rng.random(len(y)) < 0.02) * 10.0 * rng.standard_normal(len(y)) * y.std()
    elif rng.random() < 0.15:
        y = np.round(_scaled(y[:, None])[:, 0] * rng.uniform(1.0, 6.0))
    return y * rng.choice((-1.0, 1.0)), 0


def _classes(rng: Random, scores: Array) -> tuple[Array, int]:
    """Classes drawn from the probabilities that sharpened scores give, so that no more can be known than is there."""
    sharp = _log_uniform(rng, 0.7, 40.0)
    scores = _scaled(scores)
    if scores.shape[1] == 1:
        k = 2 if rng.random() < 0.75 else int(rng.integers(3, MOST_CLASSES + 1))
        shares = rng.beta(2.0, 2.0, 1) if k == 2 else np.cumsum(rng.dirichlet(np.full(k, 3.0)))[:-1]
        cuts = np.quantile(scores[:, 0], np.clip(shares, 0.03, 0.97))
        noisy = scores[:, :1] + rng.logistic(size=(len(scores), 1)) / sharp
        classes = (noisy > cuts).sum(axis=1)
    else:
        offset = rng.normal(0.0, 0.6, scores.shape[1])
        classes = np.argmax(sharp * (scores + offset) + rng.gumbel(size=scores.shape), axis=1)
    present, classes = np.unique(classes, return_inverse=True)
    return rng.permutation(len(present))[classes].astype(np.float64), len(present)


# --- columns ----------------------------------------------------------------------------------------------------------


def _columns(rng: Random, features: Array) -> tuple[Array, Array, Array]:
    """Features dressed as columns: warped, rounded, cut into categories, with holes, in any order."""
    n, c = features.shape
    numbers = features[:, rng.permutation(c)].copy()
    codes = np.zeros((n, c), np.int64)
    share = rng.beta(0.8, 1.2) if rng.random() < 0.7 else 0.0
    categories = np.asarray(rng.random(c) < share)
    for j in range(c):
        x = numbers[:, j]
        if categories[j]:
            codes[:, j] = 1 + _category(rng, x)
        elif (warp := rng.random()) < 0.2:
            numbers[:, j] = np.exp(x * rng.uniform(0.3, 1.2))
        elif warp < 0.35:
            numbers[:, j] = np.round(x * _log_uniform(rng, 0.6, 6.0))
        elif warp < 0.42:
            numbers[:, j] = np.argsort(np.argsort(x)) / n
        elif warp < 0.48:
            numbers[:, j] = np.maximum(x - rng.uniform(-0.5, 1.0), 0.0)
        elif warp < 0.54:
            numbers[:, j] = rng.standard_normal(n)  # says nothing
    if rng.random() < 0.25:
        gaps = rng.random((n, c)) < rng.uniform(0.0, 0.3) * (rng.random(c) < 0.5)
        numbers[gaps], codes[gaps] = np.nan, 0
    numbers[:, categories] = np.nan
    return numbers, codes, categories


def _category(rng: Random, x: Array) -> Array:
    """A feature cut into values whose numbers say nothing of their order."""
    k = 2 if rng.random() < 0.45 else min(MOST_CODES, 2 + int(rng.geometric(0.3)))
    cuts = np.quantile(x, np.cumsum(rng.dirichlet(np.full(k, 2.0)))[:-1].clip(0.01, 0.99))
    values = (x[:, None] + rng.uniform(0.0, 0.3) * rng.standard_normal((len(x), 1)) > cuts).sum(axis=1)
    codes: Array = rng.permutation(k)[values]
    return codes
