"""Settings of an objective, checked against their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mainstem.errors import MainstemError, suggest


def checked(
    title: str, defaults: Mapping[str, Any], given: Mapping[str, Any] | None, choices: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """The defaults with what is given over them.

    Raises MainstemError for an unknown name, for what is not of the default's type or below 0 (a default of None stands for a number
    that the objective chooses, one of two for a range), and for a word that is no choice.
    """
    for name, value in (given or {}).items():
        if name not in defaults:
            raise MainstemError(f"the objective '{title}' has no setting '{name}'", do=suggest(name, defaults))
        default, where = defaults[name], f"settings.{name}"
        if name in (choices or {}):
            if value not in choices[name]:  # type: ignore[index]
                raise MainstemError(f"'{value}' is not known", where=where, do=suggest(str(value), choices[name]))  # type: ignore[index]
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                raise MainstemError(f"{value!r} is neither true nor false", where=where)
        elif isinstance(default, tuple):
            if not (isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value)) and value[0] <= value[1]):
                raise MainstemError(f"{value!r} is no pair of whole numbers, the lower one first", where=where)
        elif not (value is None and default is None):
            whole = isinstance(default, int)
            if not (_is_whole(value) or (not whole and isinstance(value, float) and value >= 0)):
                raise MainstemError(f"{value!r} is no {'whole ' if whole else ''}number from 0 up", where=where)
    return {**defaults, **(given or {})}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
