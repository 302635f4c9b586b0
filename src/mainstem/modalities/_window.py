"""Windows of series: raw cells of a whole series → its steps on a regular grid → the windows that are cut from it.

Letters of shapes: L steps of a window, H steps ahead, T steps of a series, C channels, F covariates whose future is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mainstem import registry, schema
from mainstem.contracts import Array, Modality, Rows, Value
from mainstem.errors import MainstemError
from mainstem.modalities import _steps
from mainstem.modalities._steps import Step

MOST_STEPS = 4_000_000  # of one series, gaps counted: a wrong year would make billions


@dataclass(frozen=True)
class Channel:
    """One column of a series. A category becomes one channel of 0 and 1 for each of `values`; an empty cell is none of them."""

    name: str
    kind: str = "number"
    values: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of its channels."""
        return [f"{self.name}={value}" for value in self.values] if self.kind == "category" else [self.name]


@dataclass(frozen=True)
class Layout:
    """How rows in long format make series, and how windows are cut: the settings of a column of kind `series`.

    id: the column that tells series apart, "" where all rows are one. time: "" where rows stand in order; `dated`: its cells are
    dates, not numbers. channels: the columns of the history, first the one that is forecast. future: covariates known in
    advance. snapped: times lie between steps, and each goes to the nearest whole multiple of the step, whatever series or part of
    one it is in. window, horizon: steps of history, and steps ahead (0: nothing is forecast). every: each step is
    judged by a window of its own.
    """

    id: str = ""
    time: str = ""
    dated: bool = False
    time_settings: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()
    future: tuple[Channel, ...] = ()
    step: Step = field(default_factory=Step)
    snapped: bool = False
    season: int = 1
    window: int = 1
    horizon: int = 0
    every: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Layout:
        """From settings as JSON; what is no field of a layout is left."""
        known = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        for name in ("channels", "future"):
            if name in known:
                known[name] = tuple(Channel(c["name"], c["kind"], tuple(c["values"])) for c in known[name])
        return cls(**{**known, **({"step": Step(**known["step"])} if "step" in known else {})})

    def json(self) -> dict[str, Any]:
        """For settings: Layout.of(json) is the same."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        channels = {n: [{"name": c.name, "kind": c.kind, "values": list(c.values)} for c in plain[n]] for n in ("channels", "future")}
        return {**plain, **channels, "step": self.step.json(), "time_settings": dict(self.time_settings)}

    @property
    def columns(self) -> list[str]:
        """The columns of the data in long format, in order."""
        names = [self.id, self.time, *(c.name for c in (*self.channels, *self.future))]
        return [*dict.fromkeys(name for name in names if name)]

    @property
    def names(self) -> list[str]:
        """Of the channels."""
        return [name for channel in self.channels for name in channel.names]

    @property
    def future_names(self) -> list[str]:
        """Of the covariates whose future is known."""
        return [name for channel in self.future for name in channel.names]


@dataclass(frozen=True, repr=False)
class Window:
    """A window: values [L, C] float64 with NaN where missing (before a series begins, too), covariates [L + H, F] over history and future.

    origin: the time of the first step after the history. name: the series it is of.
    """

    layout: Layout
    values: Array
    future: Array
    origin: float
    name: str = ""

    def __repr__(self) -> str:
        """By its contents, from which rows are hashed."""
        digest = hashlib.blake2b(repr((self.name, self.origin, self.values.shape, self.future.shape)).encode(), digest_size=16)
        for array in (self.values, self.future):
            digest.update(np.ascontiguousarray(array + 0.0).tobytes())
        return f"Window({digest.hexdigest()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Window) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def times(self, first: int, steps: int) -> Array:
        """float64 [steps]: times of the steps from `first` on, counted from the origin."""
        return self.layout.step.times(self.origin, np.arange(first, first + steps))


@dataclass(frozen=True)
class Grid:
    """A whole series on its steps: values [T, C], future [T, F]; `positions`: the step of each raw row."""

    start: float
    values: Array
    future: Array
    positions: Array
    off_time: int
    repeated: int


class Whole:
    """One series as raw cells by column, in the order of its source; its cells are parsed once, however many windows are cut."""

    def __init__(self, cells: Mapping[str, Sequence[Any]], layout: Layout, name: str = "", numbers: Sequence[int] = ()) -> None:
        """numbers: of the rows, for messages."""
        self.cells, self.layout, self.name, self.numbers = cells, layout, name, numbers

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), ()))

    @cached_property
    def times(self) -> Array:
        """float64 [rows]. Raises MainstemError for a cell that is no time."""
        if not self.layout.time:
            return np.arange(len(self), dtype=np.float64)
        cells = self.cells[self.layout.time]
        kind = "date" if self.layout.dated else "number"
        return self._floats(cells, self.layout.time, kind, self.layout.time_settings, required=True)

    @cached_property
    def grid(self) -> Grid:
        """Its steps. Several rows of one step are averaged. Raises MainstemError for cells that do not parse."""
        layout, times = self.layout, self.times
        start = float(times.min()) if len(times) else 0.0
        if layout.snapped and layout.step.unit in ("second", "number"):
            start = float(np.floor(start / layout.step.count) * layout.step.count)
        position = layout.step.index(times, start)
        slot = np.floor(position + 0.5).astype(np.int64)
        length = int(slot.max(initial=-1)) + 1
        if length > MOST_STEPS:
            raise MainstemError(f"from its first to its last time this series has {length:,} steps", do="Is a year mistyped?")
        values, future = (self._spread(channels, slot, length) for channels in (layout.channels, layout.future))
        repeated = len(slot) - len(np.unique(slot))
        return Grid(start, values, future, slot, _steps.off_time(position), repeated)

    def _spread(self, channels: Sequence[Channel], slot: Array, length: int) -> Array:
        """float64 [T, width]: the columns on the grid, NaN where no row is."""
        columns: list[Array] = []
        for channel in channels:
            cells = self.cells[channel.name]
            if channel.kind == "number":
                columns.append(self._floats(cells, channel.name, "number"))
            else:
                words = [_plugin("category").parse(cell, {}) for cell in cells]
                columns += [np.array([word == value for word in words], np.float64) for value in channel.values]
        spread = np.full((length, len(columns)), np.nan)
        for place, column in enumerate(columns):
            known = ~np.isnan(column)
            count = np.bincount(slot[known], minlength=length)
            total = np.bincount(slot[known], column[known], minlength=length)
            spread[:, place] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return spread

    def _floats(
        self, cells: Sequence[Any], name: str, kind: str, settings: Mapping[str, Any] | None = None, *, required: bool = False
    ) -> Array:
        parse, found = _plugin(kind).parse, np.empty(len(cells))
        for i, cell in enumerate(cells):
            try:
                value = parse(cell, settings or {})
                if value is None and required:
                    raise MainstemError("a time is missing", do="Fill it in, or leave the row out.")
            except MainstemError as error:
                row = f"row {self.numbers[i]}" if len(self.numbers) else f"value {i + 1}"
                raise MainstemError(f"{row} of column '{name}': {error.what}", do=error.do) from None
            found[i] = np.nan if value is None else value
        return found

    def window(self, origin: int) -> Window:
        """The window whose history ends before step `origin`."""
        layout, grid = self.layout, self.grid
        values = _padded(grid.values, origin - layout.window, origin)
        future = _padded(grid.future, origin - layout.window, origin + layout.horizon)
        return Window(layout, values, future, float(layout.step.times(grid.start, np.array([origin]))[0]), self.name)

    @cached_property
    def end(self) -> int:
        """The step after the last known value: where a forecast begins."""
        known = np.flatnonzero(~np.isnan(self.grid.values[:, 0] if self.layout.horizon else self.grid.values.T).reshape(-1))
        if not self.layout.horizon:
            return len(self.grid.values)
        return int(known[-1]) + 1 if len(known) else 0


class Cut(Mapping[str, Any]):
    """A window as a raw cell: {column: cells} of the rows it is made of, and the whole series, so that nothing is parsed twice."""

    def __init__(self, whole: Whole, origin: int | None = None) -> None:
        """origin: None for the window after the last known value."""
        self.whole, self.latest = whole, origin is None
        self.origin = whole.end if origin is None else origin

    @cached_property
    def _cells(self) -> dict[str, Any]:
        whole, layout = self.whole, self.whole.layout
        slot = whole.grid.positions
        last = self.origin + (layout.horizon if layout.future else 0)
        rows = np.flatnonzero((slot >= self.origin - layout.window) & (slot < last))
        rows = rows[np.argsort(slot[rows], kind="stable")]
        kept = {c.name for c in layout.future} | {layout.time}
        cells: dict[str, Any] = {layout.id: whole.name} if layout.id else {}
        for name in layout.columns:
            if name != layout.id:
                cells[name] = [whole.cells[name][i] if name in kept or slot[i] < self.origin else None for i in rows.tolist()]
        return cells

    def __getitem__(self, key: str) -> Any:
        return self._cells[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


def _plugin(kind: str) -> Modality:
    plugin: Modality = registry.load("modalities", kind).plugin
    return plugin


def _padded(array: Array, first: int, last: int) -> Array:
    """Steps first..last-1 of array [T, k], NaN where there are none; a view where there are."""
    inside = array[max(0, first) : max(0, min(last, len(array)))]
    before, after = max(0, -first), max(0, last - max(len(array), first))
    return np.pad(inside, ((before, after), (0, 0)), constant_values=np.nan) if before or after else inside


def read(raw: Any, settings: Mapping[str, Any]) -> Window | None:
    """A raw cell (a Cut, or an object of columns as JSON holds it) → its window; None where it is missing."""
    if isinstance(raw, Cut):
        return asked(raw.whole) if raw.latest else raw.whole.window(raw.origin)
    if schema.is_missing(raw):
        return None
    layout = Layout.of(settings)
    wanted = [name for name in layout.columns if name != layout.id]
    if not isinstance(raw, Mapping):
        raise MainstemError(f"expected a series, found {schema.show(raw)}", do=f"Send an object of lists: {', '.join(wanted)}.")
    missing = [name for name in wanted if not isinstance(raw.get(name), list | tuple)]
    if missing:
        raise MainstemError(f"the series has no list '{missing[0]}'", do=f"Send an object of lists: {', '.join(wanted)}.")
    if len({len(raw[name]) for name in wanted}) > 1:
        raise MainstemError("the lists of the series differ in length", do="Send one value a step in each, null where it is missing.")
    whole = Whole({name: raw[name] for name in wanted}, layout, _text(raw.get(layout.id)) if layout.id else "")
    return asked(whole)


def asked(whole: Whole) -> Window:
    """The window that ends with the last known value. Raises MainstemError where covariates that the forecast needs are not there."""
    window, layout = whole.window(whole.end), whole.layout
    if layout.future and layout.horizon and np.isnan(window.future[-layout.horizon :]).all():
        listed = ", ".join(f"'{channel.name}'" for channel in layout.future)
        raise MainstemError(
            f"{listed} {'is' if len(layout.future) == 1 else 'are'} not known for the {layout.horizon} steps to forecast",
            do=f"Add rows for these steps, with {'them' if len(layout.future) > 1 else 'it'} and without '{layout.channels[0].name}'.",
        )
    return window


def _text(cell: Value) -> str:
    return "" if schema.is_missing(cell) else schema.checked(str(cell).strip())


def wholes(rows: Rows, layout: Layout) -> list[Whole]:
    """Rows in long format → their series, in the order in which they first come. Raises MainstemError for columns that are missing."""
    rows_of: dict[str, list[int]] = {}
    ids = rows.columns[layout.id] if layout.id else [""] * len(rows)
    for i, cell in enumerate(ids):
        rows_of.setdefault(_text(cell), []).append(i)
    numbers = rows.numbers if len(rows.numbers) else range(1, len(rows) + 1)
    return [
        Whole(
            {name: [rows.columns[name][i] for i in held] for name in layout.columns if name != layout.id},
            layout,
            name,
            [numbers[i] for i in held],
        )
        for name, held in rows_of.items()
    ]
