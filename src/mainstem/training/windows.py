"""From rows in long format to windows of series in parts: what `prepare` does where the data are series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.config import ColumnSettings, Config
from mainstem.contracts import Array, Rows, Table, Task
from mainstem.data import series
from mainstem.data.series import Asked
from mainstem.errors import MainstemError
from mainstem.modalities.series import REACH, Layout, Window, cut, every, find_season, wholes
from mainstem.modalities.series import labelled as labels
from mainstem.schema import Column, Schema

FORECAST = "forecasting"
ANOMALY = "anomaly"
MOST_WATCHED = 700  # steps of a window that judges its last one
_PLACE = "place in its series"


def is_watched(config: Config) -> bool:
    """Whether every step of the series is to be judged."""
    return registry.ALIASES.get(config.task, config.task) == ANOMALY


def wanted(config: Config) -> bool:
    """Whether the data are series: rows in long format."""
    task = registry.ALIASES.get(config.task, config.task)
    return bool(config.data.series or config.data.horizon or task == FORECAST or (task == ANOMALY and config.data.time))


def is_forecast(config: Config) -> bool:
    """Whether series are to be forecast. Raises MainstemError where flags contradict each other."""
    task = registry.ALIASES.get(config.task, config.task)
    if config.data.horizon and task not in ("", FORECAST):
        raise MainstemError(f"--horizon says how far to forecast, and the task is {task}", do="Leave out one of the two.")
    return bool(config.data.horizon) or task == FORECAST


# --- every step -------------------------------------------------------------------------------------------------------


def watched(config: Config, main: Rows, others: Mapping[str, Rows]) -> tuple[Config, Rows, dict[str, Rows]]:
    """The rows with a window for each step, as `labelled`; the last steps of each series are validation and test."""
    data, notes = config.data, [*main.notes]
    asked = replace(_asked(config, ""), exclude=data.targets)
    column, made = series.column(main, asked, notes)
    layout = Layout.of(column.settings)
    known = next((Layout.of(c.settings) for c in data.columns if c.kind == "series"), layout)
    values = [whole.grid.values[:, 0] for whole in made]
    season = known.season or find_season(layout.step, [v[: len(v) // 2] for v in values], 1)
    window = known.window or int(np.clip(2 * season + 16, 96, MOST_WATCHED))
    layout = replace(layout, season=season, window=window, every=True)
    targets = [Column(name, "category") for name in data.targets]
    gathered = {}
    for name, rows in {"": main, **others}.items():
        whole = [series.replaced(each, layout) for each in wholes(rows, layout)]
        made_rows = every(rows, column.name, whole, targets, series.MOST_WINDOWS, config.seed)
        share = [cell.origin / max(1, len(cell.whole.grid.values)) for cell in made_rows.columns[column.name]]
        gathered[name] = replace(made_rows, columns={**made_rows.columns, _PLACE: share})
    notes.append(f"each step is judged by {window} steps up to it, the season is {season} (--window, --season override)")
    settings = ColumnSettings(name=column.name, kind="series", settings=layout.json())
    kept = tuple(c for c in data.columns if c.name in data.targets)
    update = {"series": "", "time": _PLACE, "inputs": (column.name,), "columns": (settings, *kept)}
    changed = config.model_copy(update={"data": data.model_copy(update=update)})
    return changed, replace(gathered.pop(""), notes=tuple(notes)), gathered


def undisturbed(table: Table, ordinary: Array) -> Array:
    """bool [n]: which rows are ordinary and, where they are steps of series, have no other one among the steps that judge them."""
    windows = [value for values in table.columns.values() for value in values if isinstance(value, Window)]
    if len(windows) != len(table) or not windows:
        return ordinary
    step = windows[0].layout.step
    steps = step.index(np.array([w.origin for w in windows]), windows[0].origin)
    names = np.unique([w.name for w in windows], return_inverse=True)[1]
    kept = ordinary.copy()
    for name in range(names.max() + 1):
        mine = np.flatnonzero(names == name)
        unusual = np.sort(steps[mine[~ordinary[mine]]])
        before = np.searchsorted(unusual, steps[mine], "right") - 1  # the latest unusual step up to each
        near = (before >= 0) & (steps[mine] - unusual[np.maximum(before, 0)] <= REACH) if len(unusual) else np.zeros(len(mine), bool)
        kept[mine[near]] = False
    return kept


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(config: Config, main: Rows, others: Mapping[str, Rows]) -> tuple[Config, Rows, dict[str, Rows]]:
    """The rows with one row a series, and the config as it reads them: a series is then a value like any other."""
    data, notes = config.data, [*main.notes]
    asked = replace(_asked(config, ""), exclude=(*data.targets, *((data.group,) if data.group else ())))
    column, made = series.column(main, asked, notes)
    layout = Layout.of(column.settings)
    known = next((Layout.of(c.settings) for c in data.columns if c.kind == "series"), None)
    longest = max((len(whole.grid.values) for whole in made), default=1)
    layout = replace(layout, window=(known or layout).window or longest, season=1)
    targets = [Column(name, "category") for name in (*data.targets, *((data.group,) if data.group else ()))]
    gathered = [
        labels(rows, column.name, [series.replaced(whole, layout) for whole in wholes(rows, layout)], targets)
        for rows in (main, *others.values())
    ]
    notes.append(f"{len(made):,} series of up to {longest:,} steps, one row each")
    settings = ColumnSettings(name=column.name, kind="series", settings=layout.json())
    kept = tuple(c for c in data.columns if c.name in data.targets)
    update = {"series": "", "time": "", "inputs": (column.name,), "columns": (settings, *kept)}
    changed = config.model_copy(update={"data": data.model_copy(update=update)})
    return changed, replace(gathered[0], notes=tuple(notes)), dict(zip(others, gathered[1:], strict=True))


# --- forecasts --------------------------------------------------------------------------------------------------------


def forecasts(config: Config, main: Rows, others: Mapping[str, Rows]) -> Any:
    """Windows of the series by part, as `preparing.Prepared`. Raises MainstemError for what is wrong with the data."""
    from mainstem.training.preparing import Prepared

    data = config.data
    if not data.horizon:
        raise MainstemError("how many steps are to be forecast?", do="Say so: --horizon N.")
    if len(data.targets) != 1:
        raise MainstemError(
            "a forecast has one target",
            where=main.where,
            do="Name it: --target COLUMN, and --series COLUMN where there are several series.",
        )
    notes = [*main.notes]
    column, made = series.column(main, _asked(config, data.targets[0]), notes)
    layout = Layout.of(column.settings)
    known = next((c for c in data.columns if c.kind == "series"), None)
    given = Layout.of(known.settings) if known else layout
    found = series.spans(
        made, layout.horizon, 0.0 if "valid" in others else config.split.valid, 0.0 if "test" in others else config.split.test
    )
    layout = series.settled(replace(layout, season=given.season, window=given.window), made, found, notes)
    schema = Schema((Column(column.name, "series", layout.json()),), (Column(data.targets[0], "series", {"answer": True}),))
    made = [series.replaced(whole, layout) for whole in made]
    pairs = series.windows(made, layout, found, config.seed)
    _check(pairs, made, layout, others, main)
    files, sizes = (
        [cut(main, column.name, [p for part in pairs.values() for p in part], schema.targets)],
        {name: len(part) for name, part in pairs.items()},
    )
    for name, rows in others.items():
        files.append(schema.gathered(rows, target=True))
        sizes[name] = len(files[-1])
    table, source = _joined(schema, files)
    parts, start = {}, 0
    for name in ("train", "valid", "test"):
        if name not in others:
            parts[name] = np.arange(start, start + sizes[name])
            start += sizes[name]
    for number, name in enumerate(others, 1):
        parts[name] = np.flatnonzero(source[:, 0] == number)
    windows = table.columns[column.name]
    names = np.array([w.name for w in windows])
    plugin: Task = registry.load("tasks", FORECAST).plugin(config.task_settings)
    last = "the test part is the last of each series" if len(parts["test"]) else "the series are too short for a test part"
    notes.append(f"a window is {layout.window} steps of history and {layout.horizon} to forecast; {last}")
    return Prepared(
        plugin,
        FORECAST,
        schema,
        table,
        tuple(files),
        source,
        {name: np.asarray(parts[name], np.int64) for name in ("train", "valid", "test")},
        names if len(set(names)) > 1 else None,
        False,
        notes=notes,
        times=np.array([w.origin for w in windows]),
        by_time=True,
        noun="windows",
    )


def _asked(config: Config, target: str) -> Asked:
    data = config.data
    kinds_of = {c.name: c.kind for c in data.columns if c.kind != "series"}
    excluded = tuple(name for name in (data.group,) if name)
    return Asked(target, data.series, data.time, data.horizon, data.window, data.season, data.future, data.inputs, kinds_of, excluded)


def _check(pairs: Mapping[str, Sequence[Any]], made: Sequence[Any], layout: Layout, others: Mapping[str, Rows], main: Rows) -> None:
    """Raises MainstemError where a part is empty that must not be."""
    needed = [name for name in ("train", "valid") if name not in others and not pairs[name]]
    if needed:
        longest = max((whole.end for whole in made), default=0)
        raise MainstemError(
            f"the series are too short: the longest has {longest:,} steps, and {layout.horizon} are to be forecast to learn from and to "
            "validate by, after a season of history",
            where=main.where,
            do="Give longer series, or a smaller --horizon.",
        )


def _joined(schema: Schema, files: Sequence[Rows]) -> tuple[Table, Array]:
    """The windows of all files as one table, and for each of them (file, row in it). Raises MainstemError where one does not parse."""
    columns: dict[str, list[Any]] = {c.name: [] for c in schema.columns}
    target: list[Any] = []
    hashes: list[str] = []
    places: list[tuple[int, int]] = []
    for number, rows in enumerate(files):
        table, errors = schema.parse(rows, target=True)
        if errors:
            raise next(iter(errors.values()))
        for name, values in table.columns.items():
            columns[name] += values
        target += table.target or []
        hashes += table.hashes
        places += [(number, i) for i in table.source]
    return Table(columns, target, hashes, list(range(len(places)))), np.array(places, np.int64).reshape(-1, 2)
