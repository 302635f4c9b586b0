"""The encoder of the one `table` input: number, category and date columns side by side. Not a column kind of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.contracts import Array, Modality, Port, State, Value
from mainstem.schema import Column


def _plugin(kind: str) -> Modality:
    plugin: Modality = registry.load("modalities", kind).plugin
    return plugin


def fit(columns: Sequence[Column], values: Mapping[str, Sequence[Value]], settings: Mapping[str, Any]) -> State:
    """Fit every column on its training values; a column's own settings win over `settings` ("scaling", "max_values").

    State.json: "numbers" (names of the features from number and date columns), "categories" (name and values of each
    category column), "gaps" (those that had missing values), "columns" (kind, settings and fitted state by column).
    """
    fitted: dict[str, Any] = {}
    numbers: list[str] = []
    gaps: list[str] = []
    categories: list[dict[str, Any]] = []
    for column in columns:
        own = {**settings, **column.settings}
        state = _plugin(column.kind).fit(own, values[column.name]).json
        fitted[column.name] = {"kind": column.kind, "settings": own, "state": state}
        names = [column.name] if column.kind != "date" else [f"{column.name}.{part}" for part in state["names"]]
        gaps += names if any(value is None for value in values[column.name]) else []
        if column.kind == "category":
            categories.append({"name": column.name, "values": state["values"]})
        else:
            numbers += names
    return State({"numbers": numbers, "categories": categories, "gaps": gaps, "columns": fitted})


def encode(
    values: Mapping[str, Sequence[Value]], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """→ {"numbers": float64 [n, F] with NaN where missing, "categories": int64 [n, C]}; a key of no width is left out."""
    numbers: list[Array] = []
    categories: list[Array] = []
    for name, fitted in state.json["columns"].items():
        arrays, _ = _plugin(fitted["kind"]).encode(values[name], fitted["settings"], State(fitted["state"]))
        if fitted["kind"] == "category":
            categories.append(arrays["index"])
        else:
            numbers.append(arrays["value"])
    arrays = {"numbers": np.column_stack(numbers)} if numbers else {}
    return arrays | ({"categories": np.column_stack(categories)} if categories else {}), {}


def ports(state: State) -> tuple[Port, ...]:
    """What `encode` makes, as ports of a graph."""
    widths = (("numbers", "float64", len(state.json["numbers"])), ("categories", "int64", len(state.json["categories"])))
    return tuple(Port(name, dtype, ("row", str(width))) for name, dtype, width in widths if width)


def feature_names(state: State) -> list[str]:
    """One name for each encoded column: the numbers, then the categories."""
    return [*state.json["numbers"], *(c["name"] for c in state.json["categories"])]
