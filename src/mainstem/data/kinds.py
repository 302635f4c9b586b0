"""What the columns of raw rows are, and which task their target asks for; every guess is said with the flag that overrides it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainstem import registry
from mainstem.contracts import Rows, Task
from mainstem.data import images, labelsets
from mainstem.errors import MainstemError, suggest
from mainstem.schema import NO, YES, Column, Schema, is_missing

KINDS = ("number", "category", "date", "text", "image", "labels")
TASKS = {"number": "regression", "category": "classification", "labels": "labels"}
MOST_CLASSES = 20  # whole numbers with more distinct values than that are quantities
_LARGEST = 1e150  # of an answer: errors are squared
_ROWS_A_CLASS = 5  # and so are those with fewer rows a value
_EVIDENT = re.compile(r"-?(?:0|[1-9]\d{0,9})(?:\.\d{1,17})?", re.ASCII)  # numbers that need no closer look
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8")
_WIDE = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]")  # scripts without spaces, or where they part no words


@dataclass(frozen=True)
class Inferred:
    """What was inferred. `notes`: human sentences, each with the flag that overrides it. `roles`: for a task with roles, the
    column that plays each."""

    schema: Schema
    task: str
    notes: list[str] = field(default_factory=list)
    roles: Mapping[str, str] = field(default_factory=dict)


def infer(
    rows: Rows,
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    task: str = "",
    separator: str = "",
    exclude: Sequence[str] = (),
) -> Inferred:
    """Raw rows → their schema and task.

    targets: the columns to predict: one, or several yes/no columns, which make a labels task; none where the task has no answer.
    inputs: the columns to learn from, in this order; empty: all but the targets and those in `exclude` (group, time).
    "ROLE=COLUMN" where the task has roles.
    kinds: column → kind, where the caller knows better. task, separator: likewise.

    Raises MainstemError for columns that do not exist, and for a target that cannot be predicted.
    """
    kinds, task = dict(kinds or {}), registry.ALIASES.get(task, task)
    plugin = registry.load("tasks", task).plugin if task else Task
    roles = _roles(rows, task, plugin.inputs, inputs)
    if roles and plugin.inputs:
        inputs = list(roles.values())
        kinds = {**{column: plugin.inputs[role] for role, column in roles.items()}, **kinds}
    if plugin.continues and not targets and not inputs and {"prompt", "completion"} <= rows.columns.keys():
        targets, inputs = ["completion"], ["prompt"]
    _check_names(rows, targets, inputs, kinds, needed=(plugin.target is not None and not plugin.continues) or not task)
    notes: list[str] = []
    if plugin.continues:
        inputs = [_continued(rows, targets, inputs, kinds, task, str(plugin.target), exclude, notes)]
        kinds[inputs[0]] = str(plugin.target)
    answers, task = _answers(rows, targets, kinds, task, plugin, separator, notes)
    names = list(inputs) or [name for name in rows.columns if name not in targets and name not in exclude]
    columns = _input_columns(rows, names, kinds, notes, keep=list(roles.values()))
    return Inferred(Schema(tuple(columns), tuple(answers)), task, notes, roles)


def _roles(rows: Rows, task: str, wanted: Mapping[str, str] | None, inputs: Sequence[str]) -> dict[str, str]:
    """Role → column: as "ROLE=COLUMN" says, else the column of the role's name. Raises MainstemError where a role has none."""
    if not wanted:
        return {}
    pairs = [text.partition("=")[::2] if "=" in text else (text, text) for text in inputs]
    unknown = [role for role, _ in pairs if role not in wanted]
    if unknown:
        raise MainstemError(f"the task {task} has no input '{unknown[0]}'", do=suggest(unknown[0], wanted))
    roles = {role: dict(pairs).get(role, role) for role in wanted}
    missing = [role for role, column in roles.items() if column not in rows.columns]
    if missing:
        raise MainstemError(
            f"the task {task} reads '{missing[0]}' ({wanted[missing[0]]}), and no column is named '{roles[missing[0]]}'",
            where=rows.where,
            do=f"Say which column it is: --input {missing[0]}=COLUMN. {suggest(roles[missing[0]], rows.columns)}",
        )
    return roles


def _continued(
    rows: Rows,
    targets: Sequence[str],
    inputs: Sequence[str],
    kinds: Mapping[str, str],
    task: str,
    modality: str,
    exclude: Sequence[str],
    notes: list[str],
) -> str:
    """The one column whose values a task goes on with. Raises MainstemError where there is none, or more than one to choose from."""
    names = list(inputs) or [name for name in rows.columns if name not in targets and name not in exclude]
    fitting = [n for n in names if (kinds.get(n) or kind_of(rows.columns[n], rows.base, alone=len(names) == 1)) == modality]
    chosen = names if len(names) == 1 else fitting
    if len(chosen) != 1 or len(inputs) > 1:
        found = _listed([f"'{name}'" for name in inputs or chosen]) or "none"
        raise MainstemError(
            f"the task {task} goes on with one column of {modality}, and there are {len(inputs or chosen)}: {found}",
            where=rows.where,
            do="Say which: --input COLUMN.",
        )
    name, left = chosen[0], [each for each in names if each != chosen[0]]
    goal = f"goes on to '{targets[0]}'" if targets else "is learned from whole, and continued"
    notes.append(f"'{name}' {goal}{f'; {_listed(left)} left out' if left else ''} (--input, --target override)")
    return name


@functools.cache
def _modality(name: str) -> Any:
    """The module of a modality: the registry looks through all that is installed, too slow for every cell."""
    return registry.load("modalities", name)


def kind_of(cells: Sequence[Any], base: Path | None = None, *, alone: bool = False) -> str:
    """The kind of an input column from its cells: number, category, date, text or image; "" for cells no kind takes.

    alone: whether it is the only input, where text is preferred to categories that hardly recur.
    """
    distinct = [value for value in _distinct(cells) if not is_missing(value)]
    if not distinct:
        return "category"
    if any(not isinstance(value, str | bytes) and hasattr(value, "__len__") for value in distinct[:100]):
        return "image" if all(_is_array_picture(value) for value in distinct) else ""
    if all(isinstance(value, bytes) for value in distinct):
        return "image" if distinct[0].startswith(_PICTURES) else ""
    if all(hasattr(value, "getpixel") for value in distinct):
        return "image"
    if all(map(_is_number, distinct)):
        return "number"
    if all(map(_modality("date").looks_like, distinct)):
        return "date"
    if all(isinstance(value, str) for value in distinct):
        if _names_pictures(distinct, base):
            return "image"
        known = sum(not is_missing(cell) for cell in cells)
        if _is_text(known, distinct) or (alone and len(distinct) > 0.5 * known):
            return "text"
    return "category"


# --- names --------------------------------------------------------------------------------------------------------------


def _check_names(rows: Rows, targets: Sequence[str], inputs: Sequence[str], kinds: Mapping[str, str], *, needed: bool) -> None:
    if not targets and needed:
        raise MainstemError("no target is named", where=rows.where, do=f"Say what to predict: --target COLUMN. {suggest('', rows.columns)}")
    for what, names in (("target", targets), ("input", inputs), ("column", kinds)):
        for name in names:
            if name not in rows.columns:
                raise MainstemError(f"the {what} '{name}' does not exist", where=rows.where, do=suggest(name, rows.columns))
    both = [name for name in inputs if name in targets]
    if both:
        raise MainstemError(f"'{both[0]}' is both target and input", where=rows.where, do="Leave it out of the inputs.")
    for kind in kinds.values():
        if kind not in KINDS and kind not in registry.names("modalities"):
            raise MainstemError(f"there is no kind of column named '{kind}'", do=suggest(kind, KINDS))


def _listed(names: Sequence[str], most: int = 12) -> str:
    short = [name if len(name) <= 40 else f"{name[:39]}…" for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- inputs ---------------------------------------------------------------------------------------------------------------


def _input_columns(rows: Rows, names: Sequence[str], kinds: Mapping[str, str], notes: list[str], keep: Sequence[str] = ()) -> list[Column]:
    names = _told_empty(rows, names, notes, keep)
    names = [name for name in names if name in keep or _is_kept(rows, name, kinds, notes)]
    columns, guessed = [], {}
    for name in names:
        cells = rows.columns[name]
        kind = kinds.get(name) or kind_of(cells, rows.base, alone=len(names) == 1)
        if not kind or kind == "labels":
            notes.append(f"'{name}' is left out: no kind of input takes its cells")
            continue
        if name not in kinds:
            guessed[name] = kind
            _note_almost(rows, name, kind, notes)
        columns.append(Column(name, kind, _modality("date").settings_for(cells) if kind == "date" else {}))
    if not columns:
        raise MainstemError(
            "there is no column to learn from", where=rows.where, do=" ".join(f"{note}." for note in notes if "left out" in note)[:400]
        )
    if guessed:
        parts = [f"{kind}: {_listed([n for n, k in guessed.items() if k == kind])}" for kind in KINDS if kind in guessed.values()]
        notes.append(f"inputs by kind: {'; '.join(parts)} (--column NAME=KIND and --input NAME override)")
    return columns


def _told_empty(rows: Rows, names: Sequence[str], notes: list[str], keep: Sequence[str]) -> list[str]:
    """The names without columns that hold nothing, which are told in one note."""
    empty = [name for name in names if name not in keep and all(map(is_missing, rows.columns[name]))]
    if len(empty) == 1:
        notes.append(f"'{empty[0]}' is left out: it is missing in every row")
    elif empty:
        notes.append(f"{len(empty)} columns are left out: they are missing in every row ({_listed(empty)})")
    return [name for name in names if name not in empty]


def _is_kept(rows: Rows, name: str, kinds: Mapping[str, str], notes: list[str]) -> bool:
    """Whether a column can tell rows apart; a column without a name that counts the rows, as frames write it, cannot."""
    cells = rows.columns[name]
    first = next(cell for cell in cells if not is_missing(cell))
    if len(cells) > 1 and all(_same(cell, first) for cell in cells):
        notes.append(f"'{name}' is left out: it is {first!r} in every row" if len(repr(first)) < 60 else f"'{name}' is left out: constant")
        return False
    if name == "column 1" and name not in kinds and [str(cell) for cell in cells] in _counts(len(cells)):
        notes.append("'column 1' is left out: it has no name and counts the rows (--column 'column 1=number' keeps it)")
        return False
    return True


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except ValueError:  # arrays
        return False


def _counts(n: int) -> list[list[str]]:
    return [[str(i + first) for i in range(n)] for first in (0, 1)]


def _note_almost(rows: Rows, name: str, kind: str, notes: list[str]) -> None:
    """Say where a handful of cells kept a column from being numbers."""
    cells = rows.columns[name]
    if kind not in ("category", "text") or sum(map(_is_number, cells[:200])) < 0.5 * len(cells[:200]):
        return
    odd = [i for i, cell in enumerate(cells) if not is_missing(cell) and not _is_number(cell)]
    if len(odd) <= 0.3 * len(cells) and len(_distinct(cells)) > MOST_CLASSES + len(odd):
        cell, place = str(cells[odd[0]])[:60], rows.place(odd[0])
        notes.append(f"'{name}' would be a number but for {len(odd):,} cells such as '{cell}' ({place}) (--column {name}=number)")


# --- kinds of cells ---------------------------------------------------------------------------------------------------------


def _distinct(cells: Sequence[Any]) -> list[Any]:
    """The different cells, in order (1 and True are two); cells that cannot be compared are all different."""
    try:
        if any(isinstance(cell, bool) for cell in cells):
            return list({(type(cell), cell): cell for cell in cells}.values())
        return list(dict.fromkeys(cells))
    except TypeError:
        return list(cells)


def _is_number(cell: Any) -> bool:
    """Whether a cell is a number as the number modality sees it, or one of the dashes that it takes for missing."""
    if type(cell) is float or (isinstance(cell, str) and _EVIDENT.fullmatch(cell)):
        return True
    number = _modality("number")
    return bool(number.looks_like(cell) or number.is_missing(cell))


def _is_array_picture(value: Any) -> bool:
    return getattr(value, "ndim", 0) in (2, 3) and str(getattr(value, "dtype", "")) == "uint8"


def _names_pictures(values: Sequence[str], base: Path | None) -> bool:
    """Whether strings name picture files that exist. Raises MainstemError where they name some and not one is there."""
    if not all(value.strip().casefold().endswith(images.SUFFIXES) for value in values) or "://" in values[0]:
        return False
    folder = base or Path.cwd()
    if not any((folder / value.strip()).is_file() for value in values[:20]):
        raise MainstemError(
            f"'{values[0]}' names a picture that does not exist",
            where=str(folder),
            do="Paths start from the folder of the table. --column NAME=category takes them as they are.",
        )
    return True


def _is_text(known: int, distinct: Sequence[str]) -> bool:
    """Free text: mostly different cells of more than three words, or of more than eight characters in Chinese and its like."""
    ratio = len(distinct) / known
    sample = distinct[:: max(1, len(distinct) // 500)]
    words = sum(len(value.split()) for value in sample) / len(sample)
    wide = sum(len(_WIDE.findall(value)) for value in sample) / len(sample)
    long = words > 8 or wide > 20
    return len(distinct) > 3 and (words > 3 or wide > 8) and (ratio > 0.5 or (long and ratio > 0.1))


# --- targets ----------------------------------------------------------------------------------------------------------------


def _answers(
    rows: Rows, targets: Sequence[str], kinds: Mapping[str, str], task: str, plugin: type[Task], separator: str, notes: list[str]
) -> tuple[list[Column], str]:
    """The answer columns and the task."""
    if task and task not in TASKS.values():
        return _answers_of(rows, targets, kinds, task, plugin, separator, notes), task
    if len(targets) > 1:
        return _flags(rows, targets, task, notes), "labels"
    name = targets[0]
    known = [cell for cell in rows.columns[name] if not is_missing(cell)]
    distinct = _distinct(known)
    if not distinct:
        raise MainstemError(f"the target '{name}' is missing in every row", where=rows.where)
    wanted = task or TASKS.get(kinds.get(name, ""), "")
    if name in kinds and (kinds[name] not in TASKS or (task and TASKS[kinds[name]] != task)):
        raise MainstemError(f"a target of kind {kinds[name]} does not go with {f'the task {task}' if task else 'any task'}", do=_tasks())
    found, why = (wanted, "as asked") if wanted else _task_of(rows, name, known, distinct)
    if found == "labels":
        return [_label_column(name, distinct, separator, notes, f"{why} (--task overrides)")], found
    if found == "regression":
        _check_numbers(rows, name)
        notes.append(f"the target '{name}' is a number: regression, {why} (--task classification overrides)")
        return [Column(name, "number")], found
    classes = _classes(distinct)
    if len(classes) < 2:
        raise MainstemError(f"the target '{name}' is '{classes[0]}' in every row: one class only", where=rows.where, do="Give rows of two.")
    notes.append(f"the target '{name}' has {len(classes)} classes ({_listed(classes, 5)}): classification, {why} (--task overrides)")
    return [Column(name, "category")], found


def _answers_of(
    rows: Rows, targets: Sequence[str], kinds: Mapping[str, str], task: str, plugin: type[Task], separator: str, notes: list[str]
) -> list[Column]:
    """The answer columns of a task by the modality of its answer."""
    if plugin.target is None:
        if plugin.judged_by and len(targets) == 1:
            return [Column(targets[0], plugin.judged_by)]
        if targets:
            raise MainstemError(f"the task {task} has no target, and '{targets[0]}' is named", do="Leave out --target.")
        return []
    if plugin.target in TASKS:
        return _answers(rows, targets, kinds, TASKS[plugin.target], plugin, separator, notes)[0]
    if len(targets) > 1:
        raise MainstemError(f"the task {task} has one target, and {len(targets)} are named", do="Name one target.")
    if not targets:
        return []
    if all(is_missing(cell) for cell in rows.columns[targets[0]]):
        raise MainstemError(f"the target '{targets[0]}' is missing in every row", where=rows.where)
    return [Column(targets[0], plugin.target, dict(plugin.processors.get("target", {})))]


def _task_of(rows: Rows, name: str, known: Sequence[Any], distinct: Sequence[Any]) -> tuple[str, str]:
    """The task that a target asks for, and why. Raises MainstemError where no task fits."""
    if all(isinstance(value, list | tuple | set | frozenset) or hasattr(value, "ndim") for value in distinct):
        return "labels", "its cells are lists"
    kind = kind_of(known, rows.base)
    if kind == "number":
        return _task_of_numbers(known, distinct)
    if kind not in ("category", "text"):
        raise MainstemError(f"the target '{name}' holds {kind or 'values of an unknown kind'}, which no task predicts yet", do=_tasks())
    strings = [value for value in distinct if isinstance(value, str)]
    if len(strings) == len(distinct) and labelsets.separator(strings):
        return "labels", "its cells hold several labels"
    if len(distinct) > 2 and len(distinct) > 0.5 * len(known):
        what = "free text" if kind == "text" else f"{len(distinct):,} different values in {len(known):,} rows"
        raise MainstemError(f"the target '{name}' holds {what}, which no task predicts", where=rows.where, do=_tasks())
    if kind == "text":
        raise MainstemError(f"the target '{name}' holds free text, which no task predicts yet", where=rows.where, do=_tasks())
    return "classification", "its values recur"


def _task_of_numbers(known: Sequence[Any], distinct: Sequence[Any]) -> tuple[str, str]:
    parse = _modality("number").plugin.parse
    values = {parse(value, {}) for value in distinct[:5000]} - {None}
    if any(value != int(value) for value in values):
        return "regression", "not all are whole"
    few = len(values) <= MOST_CLASSES and len(known) >= _ROWS_A_CLASS * len(values)
    if few or len(values) <= 2:
        return "classification", f"{len(values)} different whole numbers"
    return "regression", f"{len(distinct):,} different values"


def _tasks() -> str:
    return "Tasks: classification (values that recur), regression (numbers), labels (several labels in a cell, or several yes/no targets)."


def _check_numbers(rows: Rows, name: str) -> None:
    """Raises MainstemError where an answer is no number, or all are the same."""
    parse, cells = _modality("number").plugin.parse, rows.columns[name]
    wrong, values = [], set()
    for i, cell in enumerate(cells):
        try:
            values.add(parse(cell, {}))
        except MainstemError:
            wrong.append(i)
    if wrong:
        found = f"{len(wrong):,} answers are no numbers, such as {str(cells[wrong[0]])[:60]!r}"
        raise MainstemError(found, where=rows.place(wrong[0], name), do="Mend or remove them.")
    known = values - {None}
    if len(known) < 2:
        raise MainstemError(f"the target '{name}' is the same number in every row", where=rows.where)
    if max(map(abs, known)) > _LARGEST:
        raise MainstemError(
            f"the target '{name}' holds {max(known, key=abs):g}, whose square is beyond what a computer's numbers hold",
            where=rows.where,
            do="Is it a mark for a missing value? Leave it empty, or give the column in a larger unit.",
        )


def _classes(distinct: Sequence[Any]) -> list[str]:
    parse = _modality("category").plugin.parse
    found = {parse(value, {}) for value in distinct} - {None}
    return sorted(found)


def _label_column(name: str, distinct: Sequence[Any], separator: str, notes: list[str], why: str) -> Column:
    strings = [value for value in distinct if isinstance(value, str)]
    mark = separator or (labelsets.separator(strings) if strings else "")
    parse = _modality("labels").plugin.parse
    labels = sorted({label for value in distinct for label in parse(value, {"separator": mark}) or ()})
    if not labels:
        raise MainstemError(f"the target '{name}' holds no label in any row")
    said = f", parted by '{mark}' (--separator overrides)" if mark else ""
    notes.append(f"the target '{name}' holds labels, {len(labels)} in all ({_listed(labels, 5)}){said}: {why}")
    return Column(name, "labels", {"separator": mark} if mark else {})


def _flags(rows: Rows, targets: Sequence[str], task: str, notes: list[str]) -> list[Column]:
    """Several yes/no columns: the names of those that say yes are the answer."""
    if task not in ("", "labels"):
        raise MainstemError(f"{task} has one target, and {len(targets)} are named", do="Several yes/no targets make the task labels.")
    for name in targets:
        other = [value for value in _classes(_distinct(rows.columns[name])) if value.casefold() not in YES | NO]
        if other:
            raise MainstemError(
                f"several targets are yes/no columns, and '{name}' holds '{other[0]}'",
                where=rows.where,
                do="Name one target, or yes/no columns.",
            )
    notes.append(f"{len(targets)} yes/no targets: labels, the names of those that say yes (--target)")
    return [Column(name, "category") for name in targets]
