"""A picture of the latest forecasts that were measured: the history, what came, the median and its bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files
from mainstem.contracts import Array, Prediction, Table
from mainstem.modalities.series import Outcome
from mainstem.training import drawing

MOST = 4  # series that are drawn
_SHOWN = 5  # horizons, or seasons where these are longer, of history
_BANDS = (("0.1", "0.9", 0.18, "80 %"), ("0.2", "0.8", 0.3, "60 %"))


def explain(folder: Path, table: Table, predictions: Sequence[Any]) -> list[str]:
    """FOLDER/forecast.png of the last window of some series, and a sentence that says where; nothing for other tasks.

    table: the windows that were measured, with their outcomes; predictions: in the same order.
    """
    latest: dict[str, tuple[Outcome, Prediction]] = {}
    for outcome, prediction in zip(table.target or (), predictions, strict=False):
        if isinstance(outcome, Outcome) and isinstance(prediction, Prediction):
            before = latest.get(outcome.window.name)
            if before is None or before[0].window.origin < outcome.window.origin:
                latest[outcome.window.name] = (outcome, prediction)
    chosen = [*latest.values()][:MOST]
    picture = drawing.png(lambda figure: _draw(figure, chosen), 8.0, 0.6 + 2.6 * len(chosen)) if chosen else b""
    if not picture:
        return []
    files.write_bytes(folder / "forecast.png", picture)
    return [f"The last forecasts that were measured: {folder / 'forecast.png'}"]


def _draw(figure: Any, chosen: Sequence[tuple[Outcome, Prediction]]) -> None:
    panels = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for axes, (outcome, prediction) in zip(panels, chosen, strict=True):
        window, horizon = outcome.window, len(outcome.values)
        layout = window.layout
        shown = min(len(window.values), _SHOWN * max(horizon, layout.season))
        history, past = window.values[-shown:, 0], _axis(window.times(-shown, shown), layout.dated)
        ahead = _axis(window.times(0, horizon), layout.dated)
        quantiles = dict(prediction.more["quantiles"])
        for low, high, alpha, label in _BANDS:
            band = quantiles[low], quantiles[high]
            axes.fill_between(ahead, *band, color=drawing.RED, alpha=alpha, linewidth=0, label=f"{label} interval")
        axes.plot(past, history, color=drawing.BLUE, linewidth=1.3, label=layout.channels[0].name)
        axes.plot(ahead, outcome.values, color=drawing.GREY, linewidth=1.3, linestyle=(0, (2, 1.5)), label="what came")
        axes.plot(ahead, prediction.value, color=drawing.RED, linewidth=1.8, label="forecast")
        axes.set_title(window.name or layout.channels[0].name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=5, frameon=False, fontsize=8)


def _axis(times: Array, dated: bool) -> Any:
    return np.floor(times).astype("datetime64[s]") if dated else times
