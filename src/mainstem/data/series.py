"""How rows in long format make series: which columns are channels, how far apart steps are, what is missing, and where parts begin.

The test part is the last steps of each series, the validation part those before: a forecast is judged on what came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mainstem import registry
from mainstem.contracts import Rows
from mainstem.data import kinds
from mainstem.errors import MainstemError, suggest
from mainstem.schema import Column, is_missing

CELL = "history"  # the column that rows are gathered in
MOST_WINDOWS = 4000  # to learn from
MOST_VALUES = 10  # of a category that get a channel each
LONGEST_WINDOW, SHORTEST_WINDOW = 1024, 8
SHORTEST = 4  # steps of history that something may be learned from
DENSE = 4  # windows of validation that begin within one horizon: what a forecast is calibrated by
_NAMED = 5  # series that a note names
_REPEATED = 0.3  # share of rows with the time of another: then a series was not told from the next


@dataclass(frozen=True)
class Asked:
    """What was asked for. target: the column to forecast, "" where none is; inputs: covariates, empty: all columns that can be."""

    target: str = ""
    id: str = ""
    time: str = ""
    horizon: int = 0
    window: int = 0
    season: int = 0
    future: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()


def _modality() -> Any:
    return registry.load("modalities", "series")


def column(rows: Rows, asked: Asked, notes: list[str]) -> tuple[Column, list[Any]]:
    """The column that the rows are gathered in, and the series it makes of them. `notes` gains sentences.

    Season and window are those asked for, or 0: `settled` chooses them. Raises MainstemError for columns that are not there or
    cannot be forecast.
    """
    _check(rows, asked)
    series = _modality()
    channels, future = _channels(rows, asked, notes)
    layout = series.Layout(
        asked.id, asked.time, channels=channels, future=future, season=asked.season, window=asked.window, horizon=asked.horizon
    )
    layout = _dated(rows, layout)
    made = series.wholes(rows, layout)
    layout = replace(layout, **_steps(rows, made, layout, notes))
    made = [replaced(whole, layout) for whole in made]
    _tell_gaps(rows, made, layout, notes)
    name = CELL
    while name in rows.columns or name == asked.target:
        name += "_"
    return Column(name, "series", layout.json()), made


def replaced(whole: Any, layout: Any) -> Any:
    """The series under another layout."""
    return _modality().Whole(whole.cells, layout, whole.name, whole.numbers)


def _check(rows: Rows, asked: Asked) -> None:
    named = {"--target": asked.target, "--series": asked.id, "--time": asked.time}
    for flag, name in [*named.items(), *(("--future", f) for f in asked.future), *(("--input", i) for i in asked.inputs)]:
        if name and name not in rows.columns:
            raise MainstemError(f"there is no column '{name}' ({flag})", where=rows.where, do=suggest(name, rows.columns))
    twice = [name for name in asked.future if name in named.values()]
    if twice:
        raise MainstemError(
            f"'{twice[0]}' cannot be a covariate as well",
            where=rows.where,
            do="Name a column whose future is known, such as a price that is set.",
        )
    if len({name for name in named.values() if name}) < sum(bool(name) for name in named.values()):
        raise MainstemError("--target, --series and --time name different columns", where=rows.where)


def _channels(rows: Rows, asked: Asked, notes: list[str]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    series = _modality()
    steering = {asked.target, asked.id, asked.time, *asked.exclude}
    names = [name for name in (asked.inputs or rows.columns) if name not in steering and name not in asked.future]
    past = [channel for name in names if (channel := _channel(rows, name, asked.kinds, notes, needed=name in asked.inputs))]
    future = [channel for name in asked.future if (channel := _channel(rows, name, asked.kinds, notes, needed=True))]
    if asked.target:
        kind = asked.kinds.get(asked.target) or kinds.kind_of(rows.columns[asked.target])
        if kind != "number":
            found = next(str(cell)[:40] for cell in rows.columns[asked.target] if not is_missing(cell)) if kind else "nothing"
            raise MainstemError(
                f"the target '{asked.target}' is no number ({kind}, such as {found!r}), and a forecast is of numbers", where=rows.where
            )
        past.insert(0, series.Channel(asked.target))
    if not past:
        raise MainstemError("no column holds numbers that change with time", where=rows.where, do="Name them: --input COLUMN.")
    covariates = [c.name for c in past if c.name != asked.target]
    if covariates and asked.target:
        notes.append(
            f"covariates of the past: {', '.join(covariates)} (--input NAME limits them, --future NAME says that one is known in advance)"
        )
    if future:
        notes.append(f"covariates known in advance: {', '.join(c.name for c in future)}")
    return tuple(past), tuple(future)


def _channel(rows: Rows, name: str, given: Mapping[str, str], notes: list[str], *, needed: bool) -> Any:
    """A column as a channel; None, with a note, where it cannot be one. Raises MainstemError where it was asked for."""
    cells = [cell for cell in rows.columns[name] if not is_missing(cell)]
    kind = given.get(name) or kinds.kind_of(rows.columns[name])
    distinct = [*dict.fromkeys(str(cell) for cell in cells)]
    why = "" if kind in ("number", "category") else f"holds {kind or 'values of no known kind'}"
    if len(distinct) + (kind == "category" and 0 < len(cells) < len(rows)) < 2:
        why = "is the same in every row" if distinct else "is missing in every row"
    if why and needed:
        raise MainstemError(f"the covariate '{name}' {why}", where=rows.where, do="Covariates are numbers or categories that vary.")
    if why:
        notes.append(f"'{name}' is left out: it {why}")
        return None
    if kind == "number":
        return _modality().Channel(name)
    parse = registry.load("modalities", "category").plugin.parse
    words, counts = np.unique([parse(cell, {}) for cell in cells], return_counts=True)
    common = sorted(words[np.argsort(-counts, kind="stable")][:MOST_VALUES].tolist())
    if len(words) > MOST_VALUES:
        notes.append(f"'{name}' has {len(words):,} values: the {MOST_VALUES} commonest are told apart")
    return _modality().Channel(name, "category", tuple(common))


def _dated(rows: Rows, layout: Any) -> Any:
    """The layout with how the cells of its time are read: as dates, else as numbers. Raises MainstemError where they are neither."""
    if not layout.time:
        return layout
    cells = rows.columns[layout.time]
    gaps = [i for i, cell in enumerate(cells) if is_missing(cell)]
    if gaps:
        raise MainstemError(
            f"{len(gaps):,} rows have no time", where=rows.place(gaps[0], layout.time), do="Fill it in, or leave these rows out."
        )
    date, number = registry.load("modalities", "date"), registry.load("modalities", "number")
    distinct = [*dict.fromkeys(cell for cell in cells)]
    if all(map(date.looks_like, distinct)):
        return replace(layout, dated=True, time_settings=date.settings_for(distinct))
    if all(map(number.looks_like, distinct)):
        whole = [int(float(cell)) for cell in distinct[:1000] if float(cell) == int(float(cell))]
        if len(whole) == min(len(distinct), 1000) and all(19_000_101 <= value <= 21_001_231 for value in whole):  # 20240131
            return replace(layout, dated=True)
        return layout
    like = max((date.looks_like, number.looks_like), key=lambda looks: sum(map(looks, cells)))
    wrong = next(i for i, cell in enumerate(cells) if not like(cell))
    raise MainstemError(
        f"expected a date or a number, found {str(cells[wrong])[:40]!r}",
        where=rows.place(wrong, layout.time),
        do="Write times as 2024-01-31 or 2024-01-31 15:30.",
    )


def _steps(rows: Rows, made: Sequence[Any], layout: Any, notes: list[str]) -> dict[str, Any]:
    """Step, and whether times are snapped to it."""
    series = _modality()
    try:
        times = [whole.times for whole in made]
    except MainstemError as error:
        raise MainstemError(error.what, where=rows.where, do=error.do) from None
    repeated = sum(len(t) - len(np.unique(t)) for t in times)
    if repeated > _REPEATED * len(rows):
        what = f"the same times occur again and again: {repeated:,} of {len(rows):,} rows"
        raise MainstemError(what, where=rows.where, do="Name the column that tells the series apart: --series COLUMN.")
    ordered = [np.unique(t) for t in times]
    step = series.infer_step(ordered, dates=layout.dated)
    off = sum(series.off_time(step.index(t, t[0])) for t in ordered if len(t))
    snapped = off > 0 and step.unit in ("second", "number")
    if layout.time:
        told = "" if not snapped else f", though {off:,} of {len(rows):,} times lie between steps: each goes to the nearest"
        notes.append(f"{len(made):,} series, a step {step}{told}")
    return {"step": step, "snapped": snapped}


def _tell_gaps(rows: Rows, made: Sequence[Any], layout: Any, notes: list[str]) -> None:
    """Notes on steps without a row, without a value, and with several rows. Raises MainstemError for cells that do not parse."""
    gaps: dict[str, int] = {}
    empty: dict[str, int] = {}
    repeated: dict[str, int] = {}
    for whole in made:
        try:
            grid = whole.grid
        except MainstemError as error:
            raise MainstemError(error.what, where=rows.where, do=error.do) from None
        absent = len(grid.values) - len(np.unique(grid.positions))
        last = whole.end if layout.horizon else len(grid.values)
        missing = int(np.isnan(grid.values[:last, 0]).sum()) - max(0, absent)
        for found, count in ((gaps, absent), (empty, missing), (repeated, grid.repeated)):
            if count > 0:
                found[whole.name] = count
    for found, what in (
        (gaps, "steps without a row count as missing"),
        (empty, "steps without a value"),
        (repeated, "rows of a step that has others are averaged with them"),
    ):
        if found:
            notes.append(f"{sum(found.values()):,} {what}{_which(found, made)}")


def _which(found: Mapping[str, int], made: Sequence[Any]) -> str:
    if len(made) == 1:
        return ""
    worst = sorted(found, key=lambda name: -found[name])[:_NAMED]
    listed = ", ".join(f"'{name}' {found[name]:,}" for name in worst)
    return f" in {len(found):,} of {len(made):,} series ({listed}{', …' if len(found) > _NAMED else ''})"


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spans:
    """By series: the step at which its validation part begins, and its test part; the last known step of both where there is none."""

    valid: NDArray[np.int64]
    test: NDArray[np.int64]


def spans(made: Sequence[Any], horizon: int, valid: float, test: float) -> Spans:
    """Each share above 0 in whole horizons, one at least; a series too short for that gives none. Where all are, there is no test."""
    ends = np.array([whole.end for whole in made])

    def part(share: float) -> NDArray[np.int64]:
        return np.where(share > 0, np.maximum(1, np.round(share * ends / horizon)) * horizon, 0).astype(np.int64)

    tested, watched = part(test), part(valid)
    least = SHORTEST + horizon
    short = ends - tested - watched < least
    if short.all() and test > 0:
        return spans(made, horizon, valid, 0.0)
    tested, watched = np.where(short, 0, tested), np.where(short, 0, watched)
    return Spans(ends - tested - watched, ends - tested)


def settled(layout: Any, made: Sequence[Any], found: Spans, notes: list[str]) -> Any:
    """The layout with season (by the values before the validation part) and window (the longest series), where these are 0."""
    known = [whole.grid.values[:end, 0] for whole, end in zip(made, found.valid, strict=True)]
    season = layout.season
    if season < 1:
        season = _modality().find_season(layout.step, known, layout.horizon or 1)
        notes.append(f"the season is {season} steps (--season overrides)" if season > 1 else "no season was found (--season says one)")
    window = layout.window
    if window < 1:
        longest = max((len(whole.grid.values) for whole in made), default=0)  # what a forecast may one day begin with
        window = int(np.clip(longest, SHORTEST_WINDOW, LONGEST_WINDOW))
    return replace(layout, season=season, window=window)


def windows(made: Sequence[Any], layout: Any, found: Spans, seed: int) -> dict[str, list[tuple[Any, int]]]:
    """(series, origin) by part. Windows to learn from lie wholly before the validation part; those of the test do not overlap."""
    origins, horizon = _modality().origins, layout.horizon
    parts: dict[str, list[tuple[Any, int]]] = {"train": [], "valid": [], "test": []}
    for whole, first_valid, first_test in zip(made, found.valid.tolist(), found.test.tolist(), strict=True):
        bounds = {
            "train": (1, 0, first_valid),
            "valid": (max(1, horizon // DENSE), first_valid, first_test),
            "test": (horizon, first_test, whole.end),
        }
        for part, (apart, first, last) in bounds.items():
            parts[part] += [(whole, origin) for origin in origins(whole, apart, first, last)]
    if len(parts["train"]) > MOST_WINDOWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(parts["train"]), MOST_WINDOWS, replace=False))
        parts["train"] = [parts["train"][i] for i in chosen]
    return parts
