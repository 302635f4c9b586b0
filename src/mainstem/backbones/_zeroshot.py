"""A pretrained network of series at work: quantiles of the steps ahead of any series. numpy and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from mainstem import pretrained
from mainstem.contracts import Array, Arrays
from mainstem.modalities._continuations import Reading
from mainstem.pretrained import Network

NAME = "series"
_AT_ONCE = 256  # series answered in one pass


def forecast(values: Array, horizon: int, levels: Sequence[float], network: Network | None = None) -> Array:
    """Series [n, l] with NaN where a step is missing → quantiles [n, horizon, levels] float64, in the units of each series.

    `network`: that of the package where none is given.
    """
    network = network or pretrained.shipped(NAME)
    reading = Reading.of(values, horizon)
    return reading.values(answered(network, reading.arrays) @ mixing(network, levels))[:, :horizon]


def answered(network: Network, arrays: Arrays) -> Array:
    """The network's answer [n, h, q] float64, in units of the reading."""
    session, rows = pretrained.session(network.graph), len(arrays["summary"])
    parts = [{name: array[i : i + _AT_ONCE] for name, array in arrays.items()} for i in range(0, max(1, rows), _AT_ONCE)]
    return np.concatenate([session.run(["quantiles"], part)[0] for part in parts]).astype(np.float64)


def mixing(network: Network, levels: Sequence[float]) -> Array:
    """[q, levels]: what quantiles of any levels are made of, by straight lines between those of the network; beyond its outermost ones
    by the tails of a normal distribution that has this one and the same median."""
    own = network.shape["quantiles"]
    mixed = np.array([np.interp(levels, own, unit) for unit in np.eye(len(own))])
    middle = own.index(0.5)
    for j, level in enumerate(levels):
        edge = 0 if level < own[0] else len(own) - 1 if level > own[-1] else None
        if edge is not None:
            reach = NormalDist().inv_cdf(level) / NormalDist().inv_cdf(own[edge])
            mixed[:, j] = 0.0
            mixed[middle, j], mixed[edge, j] = 1.0 - reach, reach
    return mixed
