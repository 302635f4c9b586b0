"""`kernels_series`: shares of positive values of 84 fixed convolutions at many dilations, and ridge regression on them.

After MiniRocket (Dempster, Schmidt & Webb 2021, arXiv:2012.08791): kernels of length 9 with three weights of 2 and six of -1, biases from
quantiles of the convolutions of some windows that were learned from. In float64 throughout: a value that lies on a bias then
falls on the same side in every runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Port, Ref, State
from mainstem.errors import MainstemError, suggest

LENGTH = 9
KERNELS = np.array([[2.0 if i in chosen else -1.0 for i in range(LENGTH)] for chosen in combinations(range(LENGTH), 3)])  # [84, 9]
_MOST_DILATIONS = 32
_MANY, _FEATURES_OF_MANY = 3000, 2520  # windows from which on fewer features are made
_STRENGTHS = np.logspace(-3, 5, 17)  # of the penalty
_CHUNK = 16  # windows that are convolved at once
DEFAULTS = {"features": 9996}


class Kernels:
    """A predictor of classes. Setting features: how many, about."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        _settings(ref.settings)
        processor = {"fill": "season", "scaling": "data"}
        return Info(modality="series", processor=processor, extra="tables", summary="random convolutions and ridge (MiniRocket)")

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """Biases, scale of the features, and weights of the ridge whose penalty suits windows left out one at a time."""
        if kinds["task"] != "classification":
            raise MainstemError("the predictor 'kernels_series' classifies", do="Take another one for this task.")
        x = np.asarray(arrays["values"], np.float64).transpose(0, 2, 1)
        wanted = _settings(settings)["features"] if len(x) < _MANY else min(_FEATURES_OF_MANY, _settings(settings)["features"])
        bank = _bank(x, wanted, np.random.default_rng(seed))
        features = _features(x, bank)
        center, scale = features.mean(axis=0), features.std(axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        hot = np.where(np.arange(kinds["outputs"]) == np.asarray(target["index"])[:, None], 1.0, -1.0)
        share = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        weight, bias, strength = _ridge((features - center) / scale, hot, share)
        fitted = {f"{name}.{i}": array for i, part in enumerate(bank) for name, array in part.arrays().items()}
        learned = {"weight": weight / scale[:, None], "bias": bias - (center / scale) @ weight}
        about = {"outputs": kinds["outputs"], "dilations": len(bank), "shape": list(arrays["values"].shape[1:]), "l2": strength}
        return State(about, {**fitted, **learned})

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"logits": float64 [n, classes]}."""
        x = np.asarray(arrays["values"], np.float64).transpose(0, 2, 1)
        return {"logits": _features(x, _parts(state)) @ state.arrays["weight"] + state.arrays["bias"]}

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": ONNX}: for each dilation a matrix product over shifted values, comparisons, means; one matrix product at the end."""
        from onnx import TensorProto

        length, channels = state.json["shape"]
        graph = Graph()
        x = graph.add("Transpose", "series.values", perm=[0, 2, 1])
        found = []
        for part in _parts(state):
            reach = (LENGTH // 2) * part.dilation
            padded = graph.add("Pad", x, np.array([0, 0, reach, 0, 0, reach]))
            shifts = [
                graph.add("Slice", padded, np.array([i * part.dilation]), np.array([i * part.dilation + length]), np.array([2]))
                for i in range(LENGTH)
            ]
            convolved = graph.add("MatMul", part.weights, graph.add("Concat", *shifts, axis=1))
            for bias in part.biases.T:
                above = graph.add("Cast", graph.add("Greater", convolved, bias[:, None]), to=TensorProto.DOUBLE)
                found.append(graph.add("ReduceSum", graph.add("Mul", above, part.share(length)), np.array([2]), keepdims=0))
        features = graph.add("Concat", *found, axis=1)
        graph.add("Add", graph.add("MatMul", features, state.arrays["weight"]), state.arrays["bias"], name="logits")
        inputs = (Port("series.values", "float64", ("row", str(length), str(channels))),)
        return {"head": graph.finish(inputs, (Port("logits", "float64", ("row", str(state.json["outputs"]))),))}


@dataclass(frozen=True)
class _Part:
    """The kernels at one dilation: weights [84, 9·C] over shifts and channels, biases [84, b]; which kernels see padding, bool [84]."""

    dilation: int
    weights: Array
    biases: Array
    padded: Array

    def arrays(self) -> dict[str, Array]:
        """For a State."""
        return {"dilation": np.array(self.dilation), "weights": self.weights, "biases": self.biases, "padded": self.padded}

    def share(self, length: int) -> Array:
        """float64 [84, L]: what each step counts in the mean; without padding the ends count nothing."""
        reach = (LENGTH // 2) * self.dilation
        inside = np.zeros(length)
        inside[reach : length - reach] = 1.0
        counted = np.where(self.padded[:, None] | (inside.sum() == 0), 1.0, inside)
        return np.asarray(counted / counted.sum(axis=1, keepdims=True))


def _parts(state: State) -> list[_Part]:
    a = state.arrays
    names = range(state.json["dilations"])
    return [_Part(int(a[f"dilation.{i}"]), a[f"weights.{i}"], a[f"biases.{i}"], a[f"padded.{i}"].astype(bool)) for i in names]


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in DEFAULTS:
            raise MainstemError(f"the predictor 'kernels_series' has no setting '{name}'", do=suggest(name, DEFAULTS))
        if isinstance(value, bool) or not isinstance(value, int) or not 84 <= value <= 100_000:
            raise MainstemError(
                f"expected a whole number from 84 to 100000, found {value!r}", where=f"predictor 'kernels_series' setting '{name}'"
            )
    return {**DEFAULTS, **given}


def _bank(x: Array, features: int, rng: np.random.Generator) -> list[_Part]:
    """Kernels, dilations and biases for windows [n, C, L]."""
    n, channels, length = x.shape
    each = max(1, features // len(KERNELS))  # of a kernel, over all dilations
    longest = max(0.0, np.log2(max(1, length - 1) / (LENGTH - 1)))
    raw = np.logspace(0, longest, min(each, _MOST_DILATIONS), base=2).astype(int)
    dilations, counts = np.unique(raw, return_counts=True)
    share = np.maximum(1, counts * each // counts.sum())
    golden = (np.sqrt(5) + 1) / 2
    drawn = 0
    parts = []
    for place, (dilation, many) in enumerate(zip(dilations.tolist(), share.tolist(), strict=True)):
        weights = _weights(channels, rng)
        levels = np.array([((drawn + i) * golden) % 1 for i in range(1, len(KERNELS) * many + 1)]).reshape(len(KERNELS), many)
        drawn += len(KERNELS) * many
        seen = _convolved(x[rng.integers(0, n, min(n, 4))], weights, dilation)
        flat = seen.transpose(1, 0, 2).reshape(len(KERNELS), -1)
        biases = np.stack([np.quantile(row, level) for row, level in zip(flat, levels, strict=True)])
        parts.append(_Part(dilation, weights, biases, (np.arange(len(KERNELS)) + place) % 2 == 0))
    return parts


def _weights(channels: int, rng: np.random.Generator) -> Array:
    """[84, 9·C]: each kernel over channels of its own, as many as a power of two drawn at random says."""
    weights = np.zeros((len(KERNELS), LENGTH, channels))
    for k, kernel in enumerate(KERNELS):
        many = int(2 ** rng.uniform(0, np.log2(min(channels, LENGTH) + 1)))
        weights[k][:, rng.choice(channels, min(many, channels), replace=False)] = kernel[:, None]
    return weights.reshape(len(KERNELS), LENGTH * channels)


def _convolved(x: Array, weights: Array, dilation: int) -> Array:
    """[n, 84, L] of [n, C, L], zeros beyond the ends."""
    reach, length = (LENGTH // 2) * dilation, x.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach)))
    shifted = np.concatenate([padded[:, :, i * dilation : i * dilation + length] for i in range(LENGTH)], axis=1)
    return np.asarray(weights @ shifted)


def _features(x: Array, bank: list[_Part]) -> Array:
    """float64 [n, features]: shares of steps above each bias."""

    def chunks() -> Iterator[Array]:
        for start in range(0, len(x), _CHUNK):
            found = []
            for part in bank:
                convolved, share = _convolved(x[start : start + _CHUNK], part.weights, part.dilation), part.share(x.shape[2])
                found += [((convolved > bias[:, None]) * share).sum(axis=2) for bias in part.biases.T]
            yield np.concatenate(found, axis=1)

    return np.concatenate(list(chunks()))


def _ridge(x: Array, y: Array, share: Array) -> tuple[Array, Array, float]:
    """(weights, intercept, penalty) of y on x [n, k], the penalty with the least error of rows left out one at a time.

    By the eigenvectors of the smaller of the two products of x with itself (Golub, Heath & Wahba 1979).
    """
    root = np.sqrt(share / share.mean())[:, None]
    mean = (root**2 * y).mean(axis=0)
    a, b = root * x, root * (y - mean)
    left, sizes, right = np.linalg.svd(a, full_matrices=False)
    turned = left.T @ b
    best, least = _STRENGTHS[0], np.inf
    for strength in _STRENGTHS:
        kept = sizes**2 / (sizes**2 + strength)
        lever = (left**2) @ kept + 1 / len(x)
        error = ((b - left @ (kept[:, None] * turned)) / np.maximum(1 - lever, 1e-6)[:, None]) ** 2
        if error.mean() < least:
            best, least = strength, float(error.mean())
    weight = right.T @ ((sizes / (sizes**2 + best))[:, None] * turned)
    return weight, mean, float(best)


predictor = Kernels()
