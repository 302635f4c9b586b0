"""A folder of class folders of pictures → rows with the columns `image` and `label`."""

from __future__ import annotations

from pathlib import Path

from mainstem.contracts import Rows
from mainstem.errors import MainstemError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx")
_PARTS = {"train", "training", "valid", "validation", "val", "dev", "test", "testing"}


def read_classes(folder: Path) -> Rows:
    """FOLDER/CLASS/…/picture.png, in sorted order; pictures are named relative to the folder.

    Raises MainstemError where there is no picture, where a table lies in the folder that should be read instead, or where
    the folders are parts (train, test) rather than classes.
    """
    found = {child.name: pictures(child, deep=True) for child in _children(folder)}
    classes = {name: paths for name, paths in found.items() if paths}
    tables = [p.name for p in sorted(folder.iterdir()) if p.suffix.casefold() in TABLES]
    if tables and len(classes) < 2:
        raise MainstemError("this is a folder with a table in it", where=str(folder), do=f"Give the table: {folder / tables[0]}.")
    if classes and {name.casefold() for name in classes} <= _PARTS:
        raise MainstemError(
            f"the folders {', '.join(classes)} are parts, not classes",
            where=str(folder),
            do=f"Give one as the data and another with --test, for example {folder / next(iter(classes))}.",
        )
    if not classes:
        loose = " in class folders: they lie in the folder itself" if pictures(folder) else ""
        raise MainstemError(
            f"there are no pictures{loose}", where=str(folder), do=f"Lay them as {folder.name}/CLASS/NAME.png ({', '.join(SUFFIXES)})."
        )
    names = [path.relative_to(folder).as_posix() for paths in classes.values() for path in paths]
    labels = [name for name, paths in classes.items() for _ in paths]
    return Rows({"image": names, "label": labels}, str(folder), base=folder)


def read_loose(folder: Path, column: str, target: str = "") -> Rows:
    """All pictures below a folder as one column, for a model that takes a picture.

    Where every one of them lies in a class folder, those are the column `target`, for whoever evaluates.
    """
    paths = [path.relative_to(folder) for path in pictures(folder, deep=True)]
    if not paths:
        raise MainstemError("there are no pictures", where=str(folder), do=f"mainstem reads {', '.join(SUFFIXES)}.")
    columns = {column: [path.as_posix() for path in paths]}
    if target and all(len(path.parts) > 1 for path in paths):
        columns[target] = [path.parts[0] for path in paths]
    return Rows(columns, str(folder), base=folder)


def pictures(folder: Path, *, deep: bool = False) -> list[Path]:
    """The pictures in a folder (with `deep`, below it too), sorted; hidden files are none."""
    found = folder.rglob("*") if deep else folder.glob("*")
    visible = (p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return sorted(p for p in visible if p.suffix.casefold() in SUFFIXES and p.is_file())


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
