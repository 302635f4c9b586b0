"""Pictures of any number by their paths: all below a folder, or those that a table names, with a text beside each where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mainstem.data import images, kinds
from mainstem.data.texts import Texts
from mainstem.errors import MainstemError

_SEEN = 200  # rows that tell what a column holds


@dataclass(frozen=True)
class Listed:
    """`names` are paths from `base`; `texts`: one each, or none at all."""

    base: Path
    names: Sequence[str]
    texts: Sequence[str] = ()


def is_folder(path: Path | str) -> bool:
    """Whether it is a folder of pictures. Raises MainstemError for one that has a table beside them."""
    path = Path(path).expanduser()
    if not path.is_dir() or not images.pictures(path, deep=True):
        return False
    tables = [p.name for p in sorted(path.iterdir()) if p.suffix.casefold() in images.TABLES]
    if tables:
        raise MainstemError("this is a folder of pictures with a table in it", where=str(path), do=f"Give the table: {path / tables[0]}.")
    return True


def of_folder(path: Path | str) -> Listed:
    """All pictures below a folder, whatever class folders they lie in."""
    path = Path(path).expanduser()
    return Listed(path, [p.relative_to(path).as_posix() for p in images.pictures(path, deep=True)])


def of_table(table: Texts) -> Listed:
    """The pictures that a table names in its column, or in one of its two columns; rows that lack one of the cells are left out."""
    rows = [row.texts for row in table.read() if len(row.texts) == len(table.columns)]
    place = holds_pictures(table).index(True)
    texts = [row[1 - place] for row in rows] if len(table.columns) == 2 else []
    return Listed(base(table), [row[place] for row in rows], texts)


def holds_pictures(table: Texts) -> list[bool]:
    """Whether each column names pictures, by its first rows."""
    rows = [row.texts for row in islice(table.read(), _SEEN) if len(row.texts) == len(table.columns)]
    return [kinds.kind_of(cells, base(table)) == "image" for cells in zip(*rows, strict=True)] or [False] * len(table.columns)


def base(table: Texts) -> Path:
    """Where its paths start."""
    return table.path if table.path.is_dir() else table.path.parent
