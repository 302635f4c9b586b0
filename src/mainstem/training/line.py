"""What a linear regression on numbers learned, in the units of the data: slopes, intercept, and a picture of one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files
from mainstem.contracts import Array, Prediction, Rows
from mainstem.inference import Pipeline
from mainstem.training import drawing
from mainstem.training.fitting import Fitted
from mainstem.training.preparing import Prepared


def explain(folder: Path, data: Prepared, fitted: Fitted, known: Array) -> list[str]:
    """Sentences about a linear regression on numbers, and FOLDER/line.png where it has one input; nothing for other models."""
    names = [c.name for c in fitted.artifact.schema.columns]
    if data.name != "regression" or not _is_linear(fitted) or any(c.kind != "number" for c in fitted.artifact.schema.columns):
        return []
    target = fitted.artifact.schema.targets[0].name
    table = data.table.take(known)
    columns = {name: np.array([np.nan if v is None else v for v in table.columns[name]], np.float64) for name in names}
    halves = {name: (values[~np.isnan(values)] if not np.isnan(values).all() else np.zeros(1)) / 2 for name, values in columns.items()}
    middle = {name: float(half.min() + half.max()) for name, half in halves.items()}  # halves, so that no number grows too large
    spread = {name: float(half.max() - half.min()) or 1.0 for name, half in halves.items()}
    points = [middle, *({**middle, name: middle[name] + spread[name]} for name in names)]
    base, *moved = _predict(fitted, points)
    slopes = {name: (value - base) / spread[name] for name, value in zip(names, moved, strict=True)}
    intercept = base - sum(slopes[name] * middle[name] for name in names)
    terms = " ".join(f"{'-' if slope < 0 else '+'} {abs(slope):.6g}·{name}" for name, slope in slopes.items())
    notes = [f"{target} = {intercept:.6g} {terms}, in the units of the data"]
    files.write_json(folder / "line.json", {"intercept": intercept, "slopes": slopes})
    if len(names) == 1:
        picture = _picture(names[0], target, columns[names[0]], np.array(table.target, np.float64), slopes[names[0]], intercept)
        if picture:
            files.write_bytes(folder / "line.png", picture)
            notes.append(f"The points and the line: {folder / 'line.png'}")
    return notes


def _is_linear(fitted: Fitted) -> bool:
    named = fitted.artifact.predictor or fitted.artifact.inputs[0].backbone
    return named == "linear" and len(fitted.artifact.inputs) == 1


def _predict(fitted: Fitted, points: Sequence[dict[str, float]]) -> list[float]:
    rows = Rows({name: [point[name] for point in points] for name in points[0]})
    answers, _ = Pipeline(fitted.artifact).predict(rows, fitted.runner)
    return [float(a.value) for a in answers if isinstance(a, Prediction)]


def _picture(name: str, target: str, x: Array, y: Array, slope: float, intercept: float) -> bytes:
    """Points and line as PNG; nothing where Matplotlib is not installed."""

    def draw(figure: Any) -> None:
        axes: Any = figure.add_subplot()
        axes.scatter(x, y, s=16, color=drawing.BLUE, alpha=0.75, linewidths=0, label="data")
        ends = np.array([np.nanmin(x), np.nanmax(x)])
        label = f"{target} = {intercept:.4g} {'-' if slope < 0 else '+'} {abs(slope):.4g}·{name}"
        axes.plot(ends, intercept + slope * ends, color=drawing.RED, linewidth=2, label=label)
        axes.set(xlabel=name, ylabel=target)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)

    return drawing.png(draw)
