"""`series`: the in-context series model, on series that are made up.

A step sees windows of one shape; how the series are made stands in _series.py, how they are read in modalities/_continuations.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mainstem.backbones import _own
from mainstem.contracts import Array, Batch, Feature, GraphSpec, Material, Objective, Port, Ref, State, Stream
from mainstem.modalities import _continuations
from mainstem.modalities._continuations import PATCH, Reading
from mainstem.objectives import _series
from mainstem.objectives._settings import checked
from mainstem.objectives._streams import Made

_INPUTS = (
    Port("context", "float32", ("row", "past", str(PATCH * _continuations.CHANNELS))),
    Port("future", "float32", ("row", str(_continuations.CANDIDATES), "steps")),
    Port("level", "float32", ("row", "steps")),
    Port("width", "float32", ("row", "steps")),
    Port("summary", "float32", ("row", str(_continuations.SUMMARY))),
)
_SIZES: dict[str, Any] = {
    "patch": PATCH,
    "channels": _continuations.CHANNELS,
    "candidates": _continuations.CANDIDATES,
    "bounds": (_continuations.LOW, _continuations.HIGH),
    "summary": _continuations.SUMMARY,
    "past": _continuations.CONTEXT // PATCH,
    "ahead": _continuations.HORIZON // PATCH,
}
_REACH = 40.0  # units; a truth further off counts as that far
_CUTS, _LONG = 4, 800  # windows cut from one made series, and how long it is at most where there are several
_HELD_OUT = (320, 400, 3)  # series, context steps, patches ahead; and their seed


class Series(Objective):
    """Predict quantiles of the steps after a window, from the window alone."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "width": 128,
        "layers": 4,
        "heads": 4,
        "tokens": 2400,  # a step: series × patches
        "context": (16, 1024),
        "ahead": (1, 8),
    }

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(checked("series", self.defaults, settings))
        self.ref = Ref("incontext_series", "incontext_series")

    def open(self, material: Material) -> None:
        """The folder to go on from, where there is one."""
        self.ref = material.backbone or self.ref

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"backbone": Patches}, with the weights of the folder to go on from."""
        from mainstem.nn.patches import Patches

        shape = (self.settings[name] for name in ("width", "layers", "heads"))
        return {"backbone": _own.load(Patches(*shape, **_SIZES), self.ref)}

    def stream(self, length: int) -> Stream:
        """Endless made series."""
        return Made(self.make, self._looked_at, length)

    def held_out(self) -> Stream:
        """Made series of 400 steps and what comes after them."""
        return Made(self.make, self._looked_at, 1)

    def _looked_at(self) -> Batch:
        return self.make(np.random.default_rng(_HELD_OUT), _HELD_OUT)

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """config.json and model.safetensors."""
        from mainstem.nn.patches import QUANTILES

        config = {"mainstem": "incontext_series", **{name: self.settings[name] for name in ("width", "layers", "heads")}}
        config["quantiles"] = list(QUANTILES)
        return _own.save_bare(networks["backbone"], config)

    def graphs(self, networks: Mapping[str, Any], specs: Mapping[str, GraphSpec], state: State) -> dict[str, GraphSpec]:
        """{"network": one pass}, over any number of series, patches of the past and patches ahead."""
        from mainstem.nn.patches import QUANTILES, Window

        quantiles = Port("quantiles", "float32", ("row", "steps", str(len(QUANTILES))))
        return {"network": GraphSpec(_INPUTS, (quantiles,), Window(networks["backbone"]))}

    def make(self, rng: np.random.Generator, shape: tuple[int, int, int] | None = None) -> Batch:
        """Some windows of one shape (series, context steps, patches ahead; drawn where it is not given), with what came after."""
        many, known, ahead = shape or self._shape(rng)
        steps = ahead * PATCH
        cuts = max(1, min(_CUTS, _LONG // (known + steps)))
        made = [_series.series(rng, cuts * (known + steps)).reshape(cuts, -1) for _ in range(-(-many // cuts))]
        values = np.concatenate(made)[:many]
        reading = Reading.of(values[:, :known], steps)
        truth = (values[:, known:] - reading.base) / reading.unit
        counted = np.isfinite(truth)
        truth = np.where(counted, np.clip(truth, -_REACH, _REACH), 0.0).astype(np.float32)
        target: dict[str, Array] = {"truth": truth, "counted": counted.astype(np.float32)}
        return Batch({"series": reading.arrays}, np.arange(many), many, ("series",), target)

    def _shape(self, rng: np.random.Generator) -> tuple[int, int, int]:
        low, high = self.settings["context"]
        known = int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
        few, most = self.settings["ahead"]
        ahead = int(np.exp(rng.uniform(np.log(few), np.log(min(most, max(few, known // 24)) + 1))))
        return max(1, self.settings["tokens"] // (-(-known // PATCH) + ahead)), known, ahead

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """ "quantiles" of the steps ahead."""
        output: dict[str, Any] = networks["backbone"](**batch.inputs["series"])
        return output

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Mean over series of the quantile losses, in the unit of each: the least error of the candidates on known steps."""
        from mainstem.nn.patches import pinball

        counted = batch.target["counted"]
        lost = pinball(output["quantiles"], batch.target["truth"]) * counted
        return (lost.sum(1) / counted.sum(1).clamp(min=1.0)).mean()


plugin = Series
