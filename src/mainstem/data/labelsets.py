"""Whether the cells of a column hold several labels each, and what parts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

MARKS = ("|", "、", ";", "；", ",", "，")  # from the surest to the one that plain text holds most
_WORDY = 4  # a label has hardly more words than that


def separator(cells: Collection[str]) -> str:
    """What parts the labels of these distinct cells: one of MARKS, " ", or "" where a cell is one value.

    Labels recur in several combinations ("a|b", "b|c"), differ in number, and come once a cell; the parts of names
    ("New York", "Austin, TX") and of sentences do not.
    """
    return next((mark for mark in MARKS if _parts_labels(cells, mark)), "") or (" " if _spaces_part_labels(cells) else "")


def _parts_labels(cells: Collection[str], mark: str) -> bool:
    split = [[part.strip() for part in cell.split(mark)] for cell in cells]
    several = [parts for parts in split if len(parts) > 1]
    if len(several) < 2 or not _each_once(several):
        return False
    words = sum(part.count(" ") + 1 for parts in several for part in parts) / sum(map(len, several))
    if words > _WORDY or max(len(part) for parts in several for part in parts) > 60:
        return False
    if mark in ",，;；" and len({len(parts) for parts in split}) == 1:
        return False  # "male, single": two things said of everyone
    return _recur(several, split) >= (0.5 if mark in "|、" else 0.7)


def _spaces_part_labels(cells: Collection[str]) -> bool:
    """Stricter than for marks, since names and sentences hold spaces: every label also stands alone, or combinations abound."""
    split = [cell.split() for cell in cells]
    several = [parts for parts in split if len(parts) > 1]
    if len(several) < 2 or len({len(parts) for parts in split}) == 1 or not _each_once(several) or _recur(several, split) < 0.9:
        return False
    known = {part for parts in several for part in parts}
    alone = {parts[0] for parts in split if len(parts) == 1}
    return known <= alone or len(split) >= max(20, 2 * len(known))


def _each_once(several: list[list[str]]) -> bool:
    """Whether parts are not empty and hardly ever come twice in a cell."""
    twice = sum(len(set(parts)) < len(parts) or "" in parts for parts in several)
    return twice <= 0.02 * len(several)


def _recur(several: list[list[str]], split: list[list[str]]) -> float:
    """The share of the parts of cells with several that stand in two cells or more."""
    counts = Counter(part for parts in split for part in set(parts))
    known = {part for parts in several for part in parts}
    return sum(counts[part] > 1 for part in known) / len(known)
