"""Whether the answers leak: before training, what would make a test score better than the model is.

Certain leaks stop the run unless `--allow-leak`; suspicious findings are warned of; what is ordinary is only counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from mainstem.contracts import Rows, Table, Value
from mainstem.data import alone, similar
from mainstem.errors import MainstemError
from mainstem.schema import Schema

_FREE = ("text", "image")
_REPEATS = 0.05  # a table with more equal rows than that has few combinations: repeats are ordinary there
_PERFECT, _GOOD = 0.995, 0.97  # ROC-AUC or R² of one column alone
_FEWEST = 20  # rows below which columns agree by chance


@dataclass(frozen=True)
class Finding:
    """One leak: its sort, a sentence that names it, the row numbers it concerns (the first ones), and the column if it is one."""

    sort: str
    sentence: str
    rows: tuple[int, ...] = ()
    column: str = ""


@dataclass(frozen=True)
class Findings:
    """What the check found. `notes`: what is ordinary but worth a figure."""

    certain: list[Finding] = field(default_factory=list)
    suspicious: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def keep_together(table: Table, schema: Schema) -> bool:
    """Whether a random split keeps equal rows on one side: they are few, or rows hold free text or pictures."""
    repeats = len(table.hashes) - len(set(table.hashes))
    return any(column.kind in _FREE for column in schema.columns) or repeats < _REPEATS * len(table)


def check(
    schema: Schema,
    table: Table,
    rows: Rows,
    parts: Mapping[str, Sequence[int]],
    *,
    groups: Sequence[Any] | None = None,
    times: Sequence[float | None] | None = None,
    given_files: bool = False,
) -> Findings:
    """Look for leaks between the parts of a table, and from its columns into its target.

    table: typed, with targets. rows: the raw rows it was parsed from, for their numbers. parts: "train", "valid", "test" →
    row indices of the table. groups, times: one a table row. given_files: the parts come from files of the user, so what
    they share was not put there by our split.
    """
    look = _Look(schema, table, rows, {name: [int(i) for i in part] for name, part in parts.items() if len(part)}, Findings())
    if groups is not None:
        _groups(look, groups)
    if given_files and times is not None:
        _times(look, times)
    if given_files:
        _same_text_or_picture(look)
    _equal_rows(look, given_files)
    if len(schema.columns) > 1 and schema.targets:  # the only input column is what the user means to learn from
        _target_copies(look)
        _almost_perfect(look)
        _ids(look)
    _near(look, given_files)
    return look.found


def stop(findings: Findings, allow: bool = False) -> None:
    """Raise MainstemError with every certain leak, unless they are allowed."""
    if findings.certain and not allow:
        listed = "; ".join(finding.sentence for finding in findings.certain)
        noun = "a leak" if len(findings.certain) == 1 else f"{len(findings.certain)} leaks"
        raise MainstemError(
            f"{noun} would make the test score worthless: {listed}", do="Mend the data, or go on all the same with --allow-leak."
        )


@dataclass(frozen=True)
class _Look:
    """What is looked at, and what was found so far."""

    schema: Schema
    table: Table
    rows: Rows
    parts: Mapping[str, list[int]]
    found: Findings

    def number(self, i: int) -> int:
        """The row number that the user sees for table row i."""
        raw = self.table.source[i] if len(self.table.source) else i
        return int(self.rows.numbers[raw]) if len(self.rows.numbers) else raw + 1

    def numbers(self, indices: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.number(i) for i in indices[:5])

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Earlier and later part."""
        return combinations([name for name in ("train", "valid", "test") if name in self.parts], 2)

    def columns(self, *kinds: str) -> Iterator[tuple[str, Sequence[Value]]]:
        return ((c.name, self.table.columns[c.name]) for c in self.schema.columns if c.kind in kinds)

    def certain(self, sort: str, sentence: str, indices: Sequence[int] = (), column: str = "") -> None:
        self.found.certain.append(Finding(sort, sentence, self.numbers(indices), column))

    def suspicious(self, sort: str, sentence: str, indices: Sequence[int] = (), column: str = "") -> None:
        self.found.suspicious.append(Finding(sort, sentence, self.numbers(indices), column))

    def shared(self, keys: Sequence[Any], a: str, b: str) -> list[int]:
        """Table rows of part b whose key (None: none) also stands in part a."""
        known = {keys[i] for i in self.parts[a]} - {None}
        return [i for i in self.parts[b] if keys[i] in known]

    def named(self, indices: Sequence[int]) -> str:
        """Rows for a sentence: "rows 3, 8, 9, 12, 40 and 7 more"."""
        listed = ", ".join(map(str, self.numbers(indices)))
        more = f" and {len(indices) - 5:,} more" if len(indices) > 5 else ""
        return f"{'row' if len(indices) == 1 else 'rows'} {listed}{more}"


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"


# --- between the parts --------------------------------------------------------------------------------------------------------


def _groups(look: _Look, groups: Sequence[Any]) -> None:
    keys = [None if group is None else str(group) for group in groups]
    for a, b in look.pairs():
        if shared := look.shared(keys, a, b):
            names = list(dict.fromkeys(str(keys[i]) for i in shared))
            listed = ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
            noun = "the group" if len(names) == 1 else f"{len(names):,} groups"
            look.certain("group", f"{noun} {listed} stand in both {a} and {b} ({look.named(shared)} of {b})", shared)


def _times(look: _Look, times: Sequence[float | None]) -> None:
    for a, b in look.pairs():
        later = [t for i in look.parts[b] if (t := times[i]) is not None]
        late = [i for i in look.parts[a] if later and (t := times[i]) is not None and t > min(later)]
        if late:
            look.certain("time", f"{_rows(len(late))} of {a} are later than the first of {b} ({look.named(late)} of {a})", late)


def _same_text_or_picture(look: _Look) -> None:
    for name, cells in look.columns("text", "image"):
        keys = [_key(cell) for cell in cells]
        for a, b in look.pairs():
            if shared := look.shared(keys, a, b):
                what = "texts" if isinstance(cells[shared[0]], str) else "pictures"
                look.certain(
                    "same", f"{len(shared):,} {what} of '{name}' in {b} stand in {a} too ({look.named(shared)} of {b})", shared, name
                )


def _key(cell: Value) -> Any:
    """What makes a text or picture the same: texts without case and spacing, None where they are too short to tell."""
    if not isinstance(cell, str):
        return getattr(cell, "data", None)
    text = similar.plain_text(cell)
    return text if similar.is_long(text) else None


def _equal_rows(look: _Look, given_files: bool) -> None:
    hashes = look.table.hashes
    if not len(hashes):
        return
    repeats = len(hashes) - len(set(hashes))
    few = repeats < _REPEATS * len(hashes)
    shared = {b: rows for a, b in look.pairs() if a == "train" and (rows := look.shared(hashes, a, b))}
    if given_files and few:
        for b, rows in shared.items():
            look.suspicious("equal", f"{_rows(len(rows))} of {b} equal rows of train in every input ({look.named(rows)} of {b})", rows)
    elif shared:
        listed = " and ".join(f"{_rows(len(rows))} of {b}" for b, rows in shared.items())
        ordinary = f"repeats are ordinary here, with {len(set(hashes)):,} different rows among {len(hashes):,}"
        look.found.notes.append(f"{listed} equal rows of train in every input; {ordinary}")


def _near(look: _Look, given_files: bool) -> None:
    train = look.parts.get("train", [])
    for name in ("valid", "test"):
        others = look.parts.get(name, [])
        if not train or not others:
            continue
        for column, cells in look.columns("text"):
            pairs = similar.near_texts([cells[i] or "" for i in train], [cells[i] or "" for i in others])
            keys = [_key(cell) for cell in cells] if given_files else []
            found = [(others[i], train[j]) for i, j in pairs if not (given_files and keys[others[i]] == keys[train[j]])]
            _near_found(look, found, name, f"texts of '{column}'", column)
        plain = dict(look.columns("number", "date", "category"))
        if not any(column.kind in _FREE for column in look.schema.columns):
            near = similar.near_rows(plain, np.array(train), np.array(others))
            _near_found(look, near, name, "rows", "")


def _near_found(look: _Look, pairs: list[tuple[int, int]], part: str, what: str, column: str) -> None:
    if pairs:
        listed = ", ".join(f"row {look.number(i)} is like row {look.number(j)}" for i, j in pairs[:5])
        more = f" and {len(pairs) - 5:,} more" if len(pairs) > 5 else ""
        look.suspicious(
            "near", f"{len(pairs):,} {what} in {part} are nearly the same as one in train ({listed}{more})", [i for i, _ in pairs], column
        )


# --- from a column into the target ----------------------------------------------------------------------------------------------


def _target_copies(look: _Look) -> None:
    answers = list(look.table.target or [])
    if len(answers) < _FEWEST:
        return
    for name, cells in look.columns("number", "date", "category", "text"):
        known = [(cell, answer) for cell, answer in zip(cells, answers, strict=True) if cell is not None and answer is not None]
        if len(known) < max(_FEWEST, 0.9 * len(answers)):
            continue
        values, targets = zip(*known, strict=True)
        if isinstance(targets[0], float):
            if isinstance(values[0], float) and alone.is_affine_copy(np.array(values), np.array(targets)):
                look.certain("target", f"'{name}' is the target in other units", column=name)
        elif _is_relabelling(values, targets):
            look.certain("target", f"'{name}' is the target under another name", column=name)
        elif isinstance(targets[0], tuple | list) and (label := _label_copied(values, targets)):
            look.certain("target", f"'{name}' says whether '{label}' is among the labels", column=name)


def _is_relabelling(values: Sequence[Value], targets: Sequence[Value]) -> bool:
    """Whether each value stands for one answer and each answer for one value, in more rows than chance could explain."""
    answers = [tuple(t) if isinstance(t, list) else t for t in targets]
    pairs = Counter(zip(values, answers, strict=True))
    several = sorted(pairs.values())
    return len(pairs) == len(set(values)) == len(set(answers)) > 1 and several[-2] > 1 and len(pairs) <= 0.5 * len(values)


def _label_copied(values: Sequence[Value], targets: Sequence[Sequence[str]]) -> str:
    """The label whose presence a column of two values tells in every row, or ""."""
    if len(set(values)) != 2:
        return ""
    where: dict[str, set[int]] = defaultdict(set)
    for i, labels in enumerate(targets):
        for label in labels:
            where[label].add(i)
    sides = [{i for i, value in enumerate(values) if value == side} for side in dict.fromkeys(values)]
    return next((label for label, rows in where.items() if rows in sides and 1 < len(rows) < len(values) - 1), "")


def _almost_perfect(look: _Look) -> None:
    train, held = look.parts.get("train", []), [i for name in ("valid", "test") for i in look.parts.get(name, [])]
    answers = look.table.target or []
    if len(train) < _FEWEST or len(held) < _FEWEST or not isinstance(answers[0], str | float):
        return
    known = {finding.column for finding in look.found.certain}
    scores = {
        name: alone.score(cells, answers, train, held) for name, cells in look.columns("number", "date", "category") if name not in known
    }
    perfect = [name for name, score in scores.items() if score > _PERFECT]
    others = max((score for score in scores.values() if score <= _PERFECT), default=0.0)
    if len(perfect) <= max(1, len(scores) // 3) and others < _GOOD:  # where many columns do so well, the task is easy
        figure = "R²" if isinstance(answers[0], float) else "ROC-AUC"
        for name in perfect:
            look.suspicious("alone", f"'{name}' alone predicts the target with {figure} {scores[name]:.4f}: known beforehand?", column=name)


def _ids(look: _Look) -> None:
    for name, cells in look.columns("number", "category"):
        known = [cell for cell in cells if cell is not None]
        if len(known) >= _FEWEST and len(set(known)) == len(known) == len(cells) and (why := _id_like(known)):
            look.suspicious("id", f"'{name}' looks like an id: {why}", column=name)


def _id_like(values: Sequence[Value]) -> str:
    """Why cells that are all different look like names of rows, or ""."""
    if isinstance(values[0], str):
        return "its values are all different"
    steps = np.diff(np.array(values, np.float64))
    if (steps > 0).all() or (steps < 0).all():
        return "it goes up or down with the row number"
    whole = all(value == int(value) for value in values)
    close = max(values) - min(values) < 10 * len(values) and len(values) >= 100  # so dense, chance would repeat some
    return "its whole numbers are all different" if whole and close else ""
