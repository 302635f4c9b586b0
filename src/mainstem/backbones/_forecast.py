"""What predictors of series share: a point for each step ahead in units of the spread, and quantiles around it.

Letters of shapes: n windows, H steps ahead, Q levels. A predictor says where its point lies, as distance from the seasonal naive in
units of the spread ("shift" [n, H]); quantiles are naive + spread · (shift + offsets [H, Q]).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Port, Ref, State
from mainstem.errors import MainstemError, suggest

HELD = 0.25  # of the windows, the last ones: what settings are chosen and offsets are measured by
_FEW = 8  # held-out windows below which offsets are those of the seasonal naive
_STRAY = 50.0  # in units of the spread: farther no answer lies from the seasonal naive
INPUT = "series"


def normal(levels: Sequence[float], horizon: int, season: int) -> Array:
    """Offsets [H, Q] of the seasonal naive: normal, the deviation growing with the root of the seasons ahead."""
    deviates = np.array([NormalDist().inv_cdf(level) for level in levels])
    return np.asarray(np.sqrt(np.arange(horizon) // season + 1.0)[:, None] * deviates)


def target(arrays: Arrays, answers: Arrays) -> tuple[Array, Array]:
    """(shift that would have been right [n, H], which steps are known [n, H] bool)."""
    shift = (np.asarray(answers["values"], np.float64) - arrays["naive"]) / arrays["spread"]
    return np.clip(shift, -_STRAY, _STRAY), np.asarray(answers["known"]) > 0


def held_out(times: Array | None, n: int, horizon: int) -> tuple[Array, Array]:
    """(windows to learn from, later windows to be judged by): their steps ahead do not overlap where times say so.

    times: when each begins to forecast; windows between the two, whose answers reach into the later ones, are left out.
    """
    times = np.arange(n, dtype=np.float64) if times is None else times
    moments = np.unique(times)
    first = moments[min(int(len(moments) * (1 - HELD)), len(moments) - 1)]
    reach = moments[max(0, int(np.searchsorted(moments, first)) - horizon)]
    return np.flatnonzero((times <= reach) & (times < first)), np.flatnonzero(times >= first)


def offsets(residuals: Array, known: Array, levels: Sequence[float], fallback: Array) -> Array:
    """[H, Q] from residuals [n, H] of windows that a model did not learn from: their quantiles over all steps, each step by its own size.

    `fallback`: offsets where the windows are too few to tell.
    """
    if len(residuals) < _FEW:
        return fallback
    horizon = residuals.shape[1]
    count = known.sum(axis=0)
    size = np.sqrt(np.where(known, residuals, 0.0) ** 2).sum(axis=0) / np.maximum(count, 1)
    reach = max(1, horizon // 6)
    kernel = np.ones(2 * reach + 1)
    weight = np.convolve(np.ones(horizon), kernel, "same")
    size = np.maximum(np.convolve(size, kernel, "same") / weight, 1e-6)
    shape = (residuals / size)[known]
    return np.asarray(size[:, None] * np.quantile(shape, levels) if len(shape) else fallback)


class Forecaster(ABC):
    """A predictor of forecasts: `arrays` it encodes beside "values", "units", "naive", "spread"; settings with their limits."""

    name = ""
    summary = ""
    processor: Mapping[str, Any] = {}
    read: tuple[str, ...] = ()  # arrays of the input beside units, naive and spread
    defaults: Mapping[str, Any] = {}
    limits: Mapping[str, tuple[float, float]] = {}

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        self.settings(ref.settings)
        return Info(modality=INPUT, processor=dict(self.processor), extra="tables", summary=self.summary)

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults, then what was asked for. Raises MainstemError for what is wrong."""
        for name, value in given.items():
            if name not in self.defaults:
                raise MainstemError(f"the predictor '{self.name}' has no setting '{name}'", do=suggest(name, self.defaults))
            low, high = self.limits[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise MainstemError(
                    f"expected a number from {low:g} to {high:g}, found {value!r}", where=f"predictor '{self.name}' setting '{name}'"
                )
        return {**self.defaults, **given}

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """Fitted state: what `learn` gives, and the offsets."""
        asked, state = self.settings(settings), kinds["input"]
        levels = kinds["settings"]["quantiles"]
        learned, made = self.learn(arrays, target, kinds.get("times"), {**asked, "season": state["season"]}, levels, seed)
        shapes = {name: list(arrays[name].shape[1:]) for name in self.read}
        return State({"horizon": state["horizon"], "levels": levels, "shapes": shapes}, {**learned, "offsets": made})

    @abstractmethod
    def learn(
        self, arrays: Arrays, answers: Arrays, times: Array | None, settings: Mapping[str, Any], levels: Sequence[float], seed: int
    ) -> tuple[dict[str, Array], Array]:
        """→ fitted arrays, offsets [H, Q]."""

    @abstractmethod
    def shift(self, state: State, arrays: Arrays) -> Array:
        """[n, H], in numpy."""

    @abstractmethod
    def nodes(self, state: State, graph: Graph) -> str:
        """The same in ONNX: the name of a float64 [n, H]."""

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"quantiles": [n, H, Q], "units": [n, 2]} float64."""
        point = arrays["naive"] + arrays["spread"] * self.shift(state, arrays)
        return {"quantiles": point[:, :, None] + arrays["spread"][:, :, None] * state.arrays["offsets"], "units": arrays["units"]}

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": ONNX}."""
        horizon, levels = state.json["horizon"], state.json["levels"]
        shapes = {**state.json["shapes"], "units": [2], "naive": [horizon], "spread": [1]}
        inputs = [Port(f"{INPUT}.{name}", "float64", ("row", *map(str, shape))) for name, shape in shapes.items()]
        graph = Graph()
        shift = graph.add("Mul", f"{INPUT}.spread", self.nodes(state, graph))
        point = graph.add("Unsqueeze", graph.add("Add", f"{INPUT}.naive", shift), np.array([2]))
        spread = graph.add("Unsqueeze", f"{INPUT}.spread", np.array([2]))
        graph.add("Add", point, graph.add("Mul", spread, state.arrays["offsets"][None]), name="quantiles")
        graph.add("Identity", f"{INPUT}.units", name="units")
        outputs = (Port("quantiles", "float64", ("row", str(horizon), str(len(levels)))), Port("units", "float64", ("row", "2")))
        return {"head": graph.finish(inputs, outputs)}
