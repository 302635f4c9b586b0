"""`forecasting`: the steps of a series that come next, as a point and quantiles for each."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mainstem.contracts import Array, Arrays, Batch, Call, Emit, Feature, GraphSpec, Port, Prediction, Runner, State, Task
from mainstem.errors import MainstemError

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
INPUT = "series"  # the name of the one input
DIRECT = ("units", "naive", "spread")  # its arrays that the head takes beside the features of a backbone
_PRIOR = 20  # scores by which the width of intervals is trusted as it is
_ENOUGH = 30  # windows from which on every step ahead has a width of its own
_WIDEST = 20.0  # factor of a width


class Forecasting(Task):
    """Quantiles of each step ahead; the point is the median. Settings: quantiles, levels beside 0.1, 0.2, …, 0.9.

    Graph "head": arrays of the series → "quantiles" [row, H, levels] in units of the window, and "units" [row, 2], its center and scale.
    State: horizon, levels, and "widths" [H][levels] of `calibrate`: by how much a quantile's distance from the median is multiplied.
    """

    target = "series"
    metrics = ("mase", "weighted_quantile_loss", "coverage")
    compared_by = ("weighted_quantile_loss", -1)
    options: ClassVar[Mapping[str, Any]] = {"quantiles": []}  # levels to answer; none: those of the model
    tolerance = 1e-2  # of the width of the 80 % interval, or of the value where that is more

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        unknown = [name for name in self.settings if name != "quantiles"]
        if unknown:
            raise MainstemError(f"unknown setting '{unknown[0]}'", where="settings of the task 'forecasting'", do="Known: quantiles.")
        given = self.settings.get("quantiles", ())
        if not isinstance(given, list | tuple) or not all(_is_level(level) for level in given):
            raise MainstemError(
                f"'quantiles' is a list of numbers between 0 and 1, not {given!r}", where="settings of the task 'forecasting'"
            )
        self.settings["quantiles"] = sorted({*LEVELS, *map(float, given)})

    @property
    def levels(self) -> list[float]:
        """Of its quantiles, in order."""
        return list(self.settings["quantiles"])

    # networks

    def head(self, features: Mapping[str, Feature], target: State) -> Any:
        """{"series.steps": float [row, H, width], "series.naive", …} → quantiles and units."""
        from mainstem.nn.series import QuantileHead

        (name,) = features
        return QuantileHead(name, INPUT, features[name].width, self.levels)

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """The backbone over the steps, then the head."""
        output: dict[str, Any] = networks["head"](
            {**{f"{INPUT}.{k}": v for k, v in networks[f"backbone.{INPUT}"](batch.inputs[INPUT]).items()}, **_direct(batch)}
        )
        return output

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Mean quantile loss over the known steps, in units of the window."""
        from mainstem.nn.series import quantile_loss

        return quantile_loss(output["quantiles"], batch.target["values"], batch.target["known"], self.levels)

    def graphs(self, networks: Mapping[str, Any], specs: Mapping[str, GraphSpec], state: State) -> dict[str, GraphSpec]:
        """The backbone's graph as it is, and the head with the arrays that it takes beside it."""
        backbone = specs[f"backbone.{INPUT}"]
        horizon = state.json["horizon"]
        features = tuple(replace(port, name=f"{INPUT}.{port.name}") for port in backbone.outputs)
        widths = {"units": 2, "naive": horizon, "spread": 1}
        inputs = features + tuple(Port(f"{INPUT}.{name}", "float32", ("row", str(width))) for name, width in widths.items())
        return {**specs, "head": GraphSpec(inputs, outputs("float32", horizon, len(self.levels)), module=networks["head"])}

    # answers

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """How far, and which quantiles."""
        return State({"horizon": target.json["horizon"], "levels": self.levels})

    def predict(
        self, batch: Batch, state: State, options: Mapping[str, Any], rngs: Sequence[np.random.Generator]
    ) -> Generator[Call | tuple[Call, ...] | Emit, Any, list[Prediction | MainstemError]]:
        """One pass; `options` say which quantiles are told."""
        features = batch.direct()
        if batch.backbones:
            (answer,) = yield (Call(f"backbone.{INPUT}", batch.inputs[INPUT]),)
            features = {**{f"{INPUT}.{key}": value for key, value in answer.items()}, **_direct(batch)}
        output = yield Call("head", features)
        wanted = _wanted(options.get("quantiles") or [], self.levels)
        return self._answers(output, batch, state, wanted)

    def calibrate(self, outputs: Arrays, targets: Arrays, state: State) -> State:
        """Widths by which the quantiles hold what they say on validation windows: split-conformal, by level and step ahead (Romano et
        al. 2019, arXiv:1905.03222, with the distance from the median in place of a fixed margin).

        Fewer than 30 windows share one width over all steps; few scores leave it near 1, since the scores of neighbouring steps depend on
        each other.
        """
        quantiles, levels = np.sort(np.asarray(outputs["quantiles"], np.float64), axis=2), np.array(self.levels)
        truth = np.where(targets["known"] > 0, targets["values"], np.nan)
        middle = quantiles[:, :, levels.tolist().index(0.5)]
        widths = np.ones((quantiles.shape[1], len(levels)))
        for place, level in enumerate(levels):
            if level == 0.5:
                continue
            distance = np.maximum(np.abs(quantiles[:, :, place] - middle), 1e-9)
            score = (truth - middle) / distance * (1 if level > 0.5 else -1)
            share = max(level, 1 - level)
            if len(score) >= _ENOUGH:
                widths[:, place] = [_width(column, share) for column in score.T]
            else:
                widths[:, place] = _width(score.reshape(-1), share)
        return replace(state, json={**state.json, "levels": self.levels, "widths": widths.round(6).tolist()})

    def decode(self, output: Arrays, batch: Batch, state: State) -> list[Prediction | MainstemError]:
        """Quantiles [row, H, levels] in units of the window → those of the data, in order, and what series and times they are of."""
        return self._answers(output, batch, state, self.levels)

    def _answers(self, output: Arrays, batch: Batch, state: State, wanted: Sequence[float]) -> list[Prediction | MainstemError]:
        levels, middle = np.array(self.levels), self.levels.index(0.5)
        scaled = np.sort(np.asarray(output["quantiles"], np.float64), axis=2)
        center = scaled[:, :, middle : middle + 1]
        scaled = np.sort(center + (scaled - center) * np.asarray(state.json.get("widths", 1.0), np.float64), axis=2)
        units = np.asarray(output["units"], np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            values = scaled * units[:, 1, None, None] + units[:, 0, None, None]
        about = batch.meta.get(INPUT, {})
        names, times = about.get("name", [""] * len(values)), about.get("time", [[]] * len(values))
        return [
            _prediction(row, levels, middle, wanted, name, time)
            if np.isfinite(row).all()
            else MainstemError("the series holds no value to forecast from", do="Send its recent steps with their values.")
            for row, name, time in zip(values, names, times, strict=True)
        ]

    def lines(self, rendered: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row for each step ahead: series, time, prediction, and a column for each quantile."""
        steps = rendered.get("time") or range(1, len(rendered["prediction"]) + 1)
        return [
            {
                **({"series": rendered["series"]} if rendered.get("series") else {}),
                "time": time,
                "prediction": value,
                **{f"q{level}": quantile[i] for level, quantile in rendered["quantiles"].items()},
            }
            for i, (time, value) in enumerate(zip(steps, rendered["prediction"], strict=True))
        ]

    def differ(self, a: Prediction, b: Prediction) -> float:
        """The largest difference as a share of the width of the 80 % interval at that step, or of the value where that is more."""
        if a.more.get("series") != b.more.get("series") or a.more.get("time") != b.more.get("time"):
            return math.inf
        first, second = (np.array([p.value, *p.more["quantiles"].values()], np.float64) for p in (a, b))
        if first.shape != second.shape:
            return math.inf
        size = np.maximum(first.max(axis=0) - first.min(axis=0), np.abs(first).max(axis=0))
        return float((np.abs(first - second) / np.maximum(size, 1e-300)).max(initial=0.0))


def outputs(dtype: str, horizon: int, levels: int) -> tuple[Port, ...]:
    """What the graph "head" of a forecast gives."""
    return (Port("quantiles", dtype, ("row", str(horizon), str(levels))), Port("units", dtype, ("row", "2")))


def _direct(batch: Any) -> dict[str, Any]:
    return {f"{INPUT}.{name}": batch.inputs[INPUT][name] for name in DIRECT}


def _is_level(level: Any) -> bool:
    return isinstance(level, float | int) and not isinstance(level, bool) and 0 < level < 1


def _width(scores: Array, share: float) -> float:
    """The quantile of the scores at `share`, corrected for their number, drawn towards 1 while they are few; never below 0."""
    scores = np.sort(scores[np.isfinite(scores)])
    if not len(scores):
        return 1.0
    rank = min(math.ceil((len(scores) + 1) * share), len(scores))
    found = float(np.clip(scores[rank - 1], 1 / _WIDEST, _WIDEST))
    trust = len(scores) / (len(scores) + _PRIOR)
    return float(np.exp(trust * np.log(found)))


def _wanted(asked: Sequence[Any], levels: Sequence[float]) -> Sequence[float]:
    """The levels to tell. Raises MainstemError for one that the model does not reach."""
    wrong = [level for level in asked if not _is_level(level) or not levels[0] <= level <= levels[-1]]
    if wrong:
        raise MainstemError(
            f"this model has quantiles from {levels[0]:g} to {levels[-1]:g}, and {wrong[0]!r} is asked for",
            do="Train it with --set 'task_settings.quantiles=[…]' for others.",
        )
    return sorted({float(level) for level in asked}) or levels


def _prediction(row: Array, levels: Array, middle: int, wanted: Sequence[float], name: str, time: Sequence[Any]) -> Prediction:
    """Quantiles [H, levels] of one series as its answer; levels between those of the model lie on the line between their neighbours."""
    known = {level: row[:, place].tolist() for place, level in enumerate(levels.tolist())}
    told = {f"{level:g}": known.get(level) or [float(np.interp(level, levels, step)) for step in row] for level in wanted}
    more = {**({"series": name} if name else {}), **({"time": list(time)} if len(time) else {}), "quantiles": told}
    return Prediction(row[:, middle].tolist(), more=more)


plugin = Forecasting
