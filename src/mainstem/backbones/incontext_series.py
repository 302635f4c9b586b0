"""`incontext_series`: a network pretrained on made series forecasts windows that it has never seen; nothing is fitted.

How that of the package was pretrained stands in pretraining/series.yaml; a folder that `mainstem pretrain --objective series` left is
another. How a window is read stands in modalities/_continuations.py: the series to forecast alone, no covariates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import pretrained
from mainstem.backbones import _zeroshot
from mainstem.backbones._graph import Graph
from mainstem.contracts import Array, Arrays, GraphSpec, Info, Port, Ref, State
from mainstem.errors import MainstemError
from mainstem.pretrained import Network

_INPUT = "series"
_OF_NETWORK = ("context", "future", "level", "width", "summary")
_OF_UNITS = ("base", "unit", "floor", "units")


class InContext:
    """The predictor."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for a setting, as it has none."""
        _no(ref.settings)
        return Info(
            modality=_INPUT,
            processor={"continuations": True},
            extra="tables",
            licence="Apache-2.0",
            summary="a network pretrained on made series forecasts any series in one pass",
        )

    def fit(
        self, arrays: Arrays, target: Arrays, kinds: Mapping[str, Any], weights: Array | None, settings: Mapping[str, Any], seed: int
    ) -> State:
        """How far, which quantiles, and by which network."""
        _no(settings)
        shapes = {name: list(arrays[name].shape[1:]) for name in (*_OF_NETWORK, *_OF_UNITS)}
        network = pretrained.of_folder(Path(settings["folder"])) if settings.get("folder") else pretrained.shipped(_zeroshot.NAME)
        about = {"horizon": kinds["input"]["horizon"], "levels": kinds["settings"]["quantiles"], "shapes": shapes, "network": network.id}
        return State(about, files={pretrained.CONFIG: network.config, pretrained.GRAPH: network.graph})

    def run(self, state: State, arrays: Arrays) -> dict[str, Array]:
        """{"quantiles": [n, H, Q], "units": [n, 2]} float64, in units of the window."""
        network = _network(state)
        answer = _zeroshot.answered(network, {name: arrays[name] for name in _OF_NETWORK})[:, : state.json["horizon"]]
        mixed = answer @ _zeroshot.mixing(network, state.json["levels"])
        told = arrays["base"][:, : answer.shape[1], None] + arrays["unit"][:, :, None] * mixed
        return {"quantiles": np.maximum(told, arrays["floor"][:, :, None]), "units": arrays["units"]}

    def graphs(self, state: State) -> dict[str, GraphSpec]:
        """{"head": the network, and what is made of its answer}."""
        graph, network = Graph(), _network(state)
        shapes, horizon, levels = state.json["shapes"], state.json["horizon"], state.json["levels"]
        names = {name: f"{_INPUT}.{name}" for name in shapes}
        (answer,) = graph.insert(network.graph, {name: names[name] for name in _OF_NETWORK}, ["quantiles"])
        steps, last = np.arange(horizon), np.array([2])
        answer = graph.cast(graph.add("Gather", answer, steps, axis=1), "float64")
        mixed = graph.add("MatMul", answer, _zeroshot.mixing(network, levels))
        base = graph.add("Unsqueeze", graph.add("Gather", names["base"], steps, axis=1), last)
        told = graph.add("Add", base, graph.add("Mul", graph.add("Unsqueeze", names["unit"], last), mixed))
        graph.add("Max", told, graph.add("Unsqueeze", names["floor"], last), name="quantiles")
        graph.add("Identity", names["units"], name="units")
        inputs = [
            Port(names[name], "float32" if name in _OF_NETWORK else "float64", ("row", *map(str, shape))) for name, shape in shapes.items()
        ]
        outputs = Port("quantiles", "float64", ("row", str(horizon), str(len(levels)))), Port("units", "float64", ("row", "2"))
        return {"head": graph.finish(inputs, outputs)}


predictor = InContext()


def _network(state: State) -> Network:
    return Network(state.files[pretrained.CONFIG], state.files[pretrained.GRAPH])


def _no(settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name == "folder":  # of the reference
            continue
        raise MainstemError(f"the predictor 'incontext_series' has no setting '{name}'", do="Leave it out: it has none.")
