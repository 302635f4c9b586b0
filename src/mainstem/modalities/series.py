"""Series: rows in long format (a time, an id, values) → windows → values scaled by window, calendar numbers, lags.

A cell is a whole series as an object of columns ({"date": […], "sales": […]}); `gather` makes such cells of rows in long
format. Typed it is a Window (_window.py); the answer of a forecast is an Outcome. Letters of shapes: n windows, L steps of
history, H steps ahead, C channels, F covariates whose future is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainstem import schema
from mainstem.contracts import ABSENT, Array, Arrays, Json, Meta, Rows, State, Value
from mainstem.errors import MainstemError
from mainstem.modalities import _continuations, _lags, _recent, _statistics, _steps, _window, date, number
from mainstem.modalities._steps import Step as Step
from mainstem.modalities._window import Channel as Channel
from mainstem.modalities._window import Cut, Layout, Whole, Window

infer_step, off_time, find_season = _steps.infer, _steps.off_time, _steps.season
wholes = _window.wholes
REACH = _recent.SPANS[-1]  # steps before a step that it is judged by first of all
LEAST_HISTORY = 8  # steps before a step is judged


@dataclass(frozen=True, repr=False, eq=False)
class Outcome:
    """What came: values float64 [H], NaN where missing, and the window before it, in whose units errors are measured."""

    values: Array
    window: Window

    def __repr__(self) -> str:
        return f"Outcome({self.values.tolist()}, {self.window!r})"


# --- long format ------------------------------------------------------------------------------------------------------


def parts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, kind) of the columns of the data in long format that make a column of this kind."""
    layout = Layout.of(settings)
    kinds = {layout.id: "category", layout.time: "date" if layout.dated else "number"}
    kinds |= {channel.name: channel.kind for channel in (*layout.channels, *layout.future)}
    return [(name, kinds[name]) for name in layout.columns]


def gather(rows: Rows, name: str, settings: Mapping[str, Any], targets: Sequence[schema.Column], *, answered: bool) -> Rows:
    """Rows in long format → one row a series, or, `answered`, one a window of a rolling origin; as they are where they have `name`.

    Without answers each series is one window, which ends with the last known value. With the answers of a forecast, origins
    stand `horizon` steps apart, back from the last step that is known, as far as a season of history is there. Raises
    MainstemError for columns that are missing.
    """
    held = rows.columns.get(name)
    if held is not None and (not len(held) or any(isinstance(cell, Mapping) or cell is None for cell in held)):
        return rows
    layout = Layout.of(settings)
    wanted = layout.columns + [t.name for t in targets if answered and t.name not in layout.columns]
    missing = [c for c in wanted if c not in rows.columns or (len(rows) and all(cell is ABSENT for cell in rows.columns[c]))]
    if missing:
        listed = ", ".join(f"'{column}'" for column in missing)
        noun = "the column" if len(missing) == 1 else "the columns"
        raise MainstemError(
            f"{noun} {listed} {'is' if len(missing) == 1 else 'are'} missing", where=rows.where, do=f"It reads {', '.join(wanted)}."
        )
    gaps = [i for i in range(len(rows)) if any(rows.columns[c][i] is ABSENT for c in wanted)]
    if gaps:
        raise MainstemError(
            "a row lacks one of the values of a series", where=rows.place(gaps[0]), do="Send null for a value that is missing."
        )
    series = _window.wholes(rows, layout)
    if layout.every:
        return every(rows, name, series, targets if answered else ())
    if not layout.horizon:
        return labelled(rows, name, series, targets if answered else ())
    if not answered:
        return cut(rows, name, [(_ready(whole, rows), None) for whole in series], ())
    pairs = [(whole, origin) for whole in series for origin in origins(_ready(whole, rows), layout.horizon)]
    if not pairs:
        raise MainstemError(f"no series has the {layout.horizon} steps that are forecast and a season before them", where=rows.where)
    return cut(rows, name, pairs, targets)


def _ready(whole: Whole, rows: Rows) -> Whole:
    """The series with its grid made. Raises MainstemError that says in which series, and where."""
    try:
        whole.grid  # noqa: B018
    except MainstemError as error:
        raise MainstemError(error.what, where=rows.where, do=error.do) from None
    return whole


def origins(whole: Whole, apart: int, first: int = 0, last: int | None = None) -> list[int]:
    """Steps at which a forecast may begin, `apart` steps from each other, in order.

    At each of them a value is known just before, and some value within the horizon; a season lies before. They go back from
    `last` (the last known step), and not before step `first`.
    """
    layout, known = whole.layout, ~np.isnan(whole.grid.values[:, 0])
    end = whole.end if last is None else min(last, whole.end)
    least = max(first, min(layout.season, layout.window), 1)
    places = range(end - layout.horizon, least - 1, -apart)
    return sorted(o for o in places if known[o - 1] and known[o : o + layout.horizon].any())


def cut(rows: Rows, name: str, pairs: Sequence[tuple[Whole, int | None]], targets: Sequence[schema.Column]) -> Rows:
    """One row for each (series, origin; None: after the last known value); `targets`: with the values that came, as the first of them."""
    columns: dict[str, list[Any]] = {name: [Cut(whole, origin) for whole, origin in pairs]}
    if targets:
        columns[targets[0].name] = [_came(whole, origin) for whole, origin in pairs if origin is not None]
    layout = pairs[0][0].layout if pairs else Layout()
    if layout.id and layout.id not in columns:
        columns[layout.id] = [whole.name for whole, _ in pairs]
    numbers = [int(whole.numbers[0]) if len(whole.numbers) else i for i, (whole, _) in enumerate(pairs, 1)]
    return Rows(columns, rows.where, numbers, rows.base, rows.notes)


def _came(whole: Whole, origin: int) -> list[float | None]:
    values = whole.grid.values[origin : origin + whole.layout.horizon, 0].tolist()
    values += [np.nan] * (whole.layout.horizon - len(values))
    return [None if value != value else value for value in values]


def labelled(rows: Rows, name: str, series: Sequence[Whole], targets: Sequence[schema.Column]) -> Rows:
    """One row a series, with its label where `targets` name one. Raises MainstemError where a label changes within a series."""
    cells = cut(rows, name, [(_ready(whole, rows), None) for whole in series], ())
    columns = dict(cells.columns)
    place = {number: i for i, number in enumerate(rows.numbers if len(rows.numbers) else range(1, len(rows) + 1))}
    for target in targets:
        found = []
        for whole in series:
            labels = {str(c): c for c in (rows.columns[target.name][place[n]] for n in whole.numbers) if not schema.is_missing(c)}
            if len(labels) > 1:
                raise MainstemError(
                    f"the series '{whole.name}' has several values of '{target.name}': {', '.join([*labels][:3])}",
                    where=rows.where,
                    do="Give every series one label; for a forecast say how far: --horizon N.",
                )
            found.append(next(iter(labels.values()), None))
        columns[target.name] = found
    return Rows(columns, rows.where, cells.numbers, rows.base, rows.notes)


def every(rows: Rows, name: str, series: Sequence[Whole], targets: Sequence[schema.Column], most: int = 0, seed: int = 0) -> Rows:
    """One row for each step with a value: the window that ends with it, with the label of its row where `targets` name one.

    most: a random part where there are more steps.
    """
    pairs = [(whole, origin) for whole in series for origin in judged(_ready(whole, rows))]
    if most and len(pairs) > most:
        pairs = [pairs[i] for i in np.sort(np.random.default_rng(seed).choice(len(pairs), most, replace=False))]
    columns = dict(cut(rows, name, pairs, ()).columns)
    place = {number: i for i, number in enumerate(rows.numbers if len(rows.numbers) else range(1, len(rows) + 1))}
    found: dict[str, list[list[Any]]] = {target.name: [] for target in targets}
    numbers = []
    at = {whole.name: {int(s): n for s, n in zip(whole.grid.positions, whole.numbers, strict=True)} for whole in series}
    for whole, origin in pairs:
        numbers.append(int(at[whole.name][origin - 1]))
        for target in targets:
            found[target.name].append(rows.columns[target.name][place[numbers[-1]]])
    return Rows({**columns, **found}, rows.where, numbers, rows.base, rows.notes)


def judged(whole: Whole) -> list[int]:
    """Origins just after each step that has a value and a little history."""
    known = ~np.isnan(whole.grid.values[:, 0])
    return [int(step) + 1 for step in np.flatnonzero(known) if step + 1 >= min(whole.layout.window, LEAST_HISTORY)]


# --- units ------------------------------------------------------------------------------------------------------------


def units(values: Array) -> tuple[Array, Array]:
    """(center, scale) float64 [n, C] of values [n, L, C] over each window: mean and deviation of what is known; 0 and NaN of nothing.

    The scale of a constant is its size, or 1. Both are rounded to float32: a network may pass them on, and the order in which
    another processor adds shows in none of the arrays.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    size = np.where(known, np.abs(values), 0.0).max(axis=1, initial=0.0)
    size = np.where(size > 0, size, 1.0)  # squares of huge values stay finite
    held = np.where(known, values / size[:, None], 0.0)
    center = held.sum(axis=1) / np.maximum(count, 1)
    scale = np.sqrt((np.where(known, held - center[:, None], 0.0) ** 2).sum(axis=1) / np.maximum(count, 1))
    scale = np.where(scale > 1e-12, scale, 1.0)
    with np.errstate(over="ignore"):
        center, scale = _single(center * size), _single(scale * size)
    return center, np.where(count > 0, scale, np.nan)


def _single(values: Array) -> Array:
    """Rounded to what float32 holds, infinity excluded."""
    most, least = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
    clipped = np.clip(values, -most, most)
    return np.where(np.abs(clipped) < least, np.copysign(least, clipped), clipped).astype(np.float32).astype(np.float64)


# --- the modality -----------------------------------------------------------------------------------------------------


class Series:
    """The modality of series. Settings are those of a Layout, and for encoding:

    length: only the last steps of the history. fill: "season" puts the seasonal naive's values where some are missing, else they
    are NaN. calendar: "" none, "horizon", "all". steps: features of each step ahead for trees (_lags.py). statistics: numbers that
    describe a window (_statistics.py). recent: how its last step departs from what came before (_recent.py). scaling: "window"
    (default), or "data": one center and scale a channel for all windows.
    """

    computed = _continuations.COMPUTED

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> Window | Array | None:
        """A cell → a Window, or, for an answer, float64 [H]. Raises MainstemError for what is no series."""
        if not settings.get("answer"):
            return _window.read(raw, settings)
        if not isinstance(raw, list | tuple):
            if schema.is_missing(raw):
                return None
            raise MainstemError(f"expected a list of values, found {schema.show(raw)}")
        values = np.array([np.nan if schema.is_missing(cell) else float(cell) for cell in raw], np.float64)
        return None if np.isnan(values).all() else values

    def beside(self, answer: Array, inputs: Mapping[str, Value]) -> Outcome | None:
        """An answer with the window that it follows; None where that window is missing."""
        window = next((value for value in inputs.values() if isinstance(value, Window)), None)
        return None if window is None else Outcome(answer, window)

    def fit(self, settings: Mapping[str, Any], values: Sequence[Value]) -> State:
        """Shape and names, center and scale of covariates whose future is known."""
        first = next((value for value in values if value is not None), None)
        layout = first.window.layout if isinstance(first, Outcome) else first.layout if first is not None else Layout.of(settings)
        fitted: dict[str, Any] = {"horizon": layout.horizon, "season": layout.season}
        if settings.get("answer"):
            return State(fitted)
        width = len(layout.future_names)
        future = np.concatenate([np.zeros((0, width)), *(v.future[-max(1, layout.horizon) :] for v in values if v is not None)])
        spreads = [number.spread(column[~np.isnan(column)], "standard") for column in future.T]
        about = {"layout": layout.json(), "window": layout.window, "channels": layout.names, "futures": layout.future_names}
        about |= {"phases": list(_steps.phases(layout.step)), **_scales(values, settings, len(layout.names))}
        return State({**fitted, **about, "center": [c for c, _ in spreads], "scale": [s for _, s in spreads]})

    def encode(
        self, values: Sequence[Value], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Windows → "values" [n, L, C] and "known" [n, L, C] in units of each window, "units" [n, 2] of the first channel (center and
        scale; NaN where a window holds nothing), "naive" [n, H] and "spread" [n, 1] (_lags.py), and what the settings ask for:
        "calendar", "future", "steps". Outcomes → "values" and "known" [n, H] in the same units. All float64.
        """
        if settings.get("answer"):
            return _answers(values), {}
        layout = Layout.of(state.json["layout"])
        windows = [_empty(layout) if value is None else value for value in values]
        raw = np.stack([window.values for window in windows])
        center, scale = units(raw)
        if settings.get("scaling") == "data":
            center, scale = np.broadcast_to(state.json["centers"], center.shape), np.where(np.isnan(scale), np.nan, state.json["scales"])
        scaled = (raw - center[:, None]) / np.where(np.isnan(scale), 1.0, scale)[:, None]
        length = min(layout.window, int(settings.get("length") or layout.window))
        filled = _lags.filled(scaled, layout.season)
        arrays = {"values": (filled if settings.get("fill") == "season" else scaled)[:, -length:]}
        arrays["known"] = (~np.isnan(scaled))[:, -length:].astype(np.float64)
        arrays["units"] = np.column_stack([center[:, 0], scale[:, 0]])
        if layout.horizon:
            arrays |= _lags.naive(scaled[:, :, 0], layout.season, layout.horizon)
        if settings.get("recent"):
            arrays["recent"] = _recent.of(scaled, layout.season)
        if settings.get("statistics"):
            arrays["statistics"] = _statistics.of(scaled)
        if settings.get("continuations"):
            arrays |= _continuations.encoded(raw[:, :, 0], arrays["units"], layout.horizon)
        reach = layout.horizon + (length if settings.get("calendar") == "all" else 0)
        calendar = np.stack([_steps.calendar(w.times(layout.horizon - reach, reach), layout.step) for w in windows])
        future = _future(windows, reach, state)
        if settings.get("calendar"):
            arrays |= {name: array for name, array in (("calendar", calendar), ("future", future)) if array.shape[2]}
        if settings.get("steps"):
            ahead = np.concatenate([calendar, future], axis=2)[:, reach - layout.horizon :]
            arrays["steps"] = _lags.steps(filled, arrays["naive"], arrays["spread"], layout.season, ahead)
        last = [render_time(float(w.times(-1, 1)[0]), layout) for w in windows]
        return arrays, {"name": [w.name for w in windows], "time": [_times(w) for w in windows], "last": last}

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[Value]:
        """{"values": [n, H]} → lists in the units of the window."""
        return [row.tolist() for row in np.asarray(arrays["values"], np.float64)]

    def edges(self, settings: Mapping[str, Any], state: State) -> list[Any]:
        """A series of a single value, one with gaps, a constant one."""
        layout = Layout.of(state.json["layout"])
        return [_made(layout, values) for values in ([1.0], [1.0, None, 2.5, 2.0, None, 3.0], [4.0] * 4)]

    def render(self, value: Value, accept: str = "application/json") -> Json:
        """{"time": […], "values": [[…]]}, or null."""
        if not isinstance(value, Window):
            return None
        plain = [[None if cell != cell else cell for cell in row] for row in value.values.tolist()]
        times = value.times(-len(plain), len(plain))
        return {"time": [render_time(t, value.layout) for t in times.tolist()], "values": plain}


def _scales(values: Sequence[Window | None], settings: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Center and scale of each channel over all windows, where they are to be scaled so."""
    if settings.get("scaling") != "data":
        return {}
    held = np.concatenate([np.zeros((0, channels)), *(v.values for v in values if v is not None)])
    found = [number.spread(column[~np.isnan(column)], "standard") for column in held.T]
    return {"centers": [c for c, _ in found], "scales": [s for _, s in found]}


def _empty(layout: Layout) -> Window:
    """The window of a series that is missing."""
    values = np.full((layout.window, len(layout.names)), np.nan)
    return Window(layout, values, np.full((layout.window + layout.horizon, len(layout.future_names)), np.nan), 0.0)


def _answers(values: Sequence[Outcome]) -> dict[str, Array]:
    raw = np.stack([value.values for value in values])
    center, scale = units(np.stack([value.window.values[:, :1] for value in values]))
    scaled = (raw - center) / scale
    known = ~np.isnan(scaled)
    return {"values": np.where(known, scaled, 0.0), "known": known.astype(np.float64)}


def _future(windows: Sequence[Window], reach: int, state: State) -> Array:
    """[n, reach, F] scaled, 0 (the mean) where missing."""
    raw = np.stack([w.future[len(w.future) - reach :] for w in windows])
    scaled = (raw - np.array(state.json["center"])) / np.array(state.json["scale"])
    return np.where(np.isnan(scaled), 0.0, scaled)


def _times(window: Window) -> list[Json]:
    horizon = window.layout.horizon
    return [render_time(time, window.layout) for time in window.times(0, horizon).tolist()]


def render_time(time: float, layout: Layout) -> Json:
    """A time as JSON: ISO 8601, or the number."""
    if layout.dated:
        return date.plugin.render(time)
    return int(time) if time == int(time) else time


def _made(layout: Layout, values: Sequence[float | None]) -> dict[str, Any]:
    """A made series as a raw cell, with its covariates over the steps ahead."""
    ahead = layout.horizon if layout.future else 0
    steps = layout.step.times(1_704_067_200.0 if layout.dated else 0.0, np.arange(len(values) + ahead)).tolist()
    cells: dict[str, Any] = {layout.id: "made"} if layout.id else {}
    cells |= {layout.time: [render_time(t, layout) for t in steps]} if layout.time else {}
    for channel in layout.channels:
        known = list(values) if channel.kind == "number" else [channel.values[0]] * len(values)
        cells[channel.name] = known + [None] * ahead
    for channel in layout.future:
        cells[channel.name] = [1.0 if channel.kind == "number" else channel.values[0]] * (len(values) + ahead)
    return cells


plugin = Series()
