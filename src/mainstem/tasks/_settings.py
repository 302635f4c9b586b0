"""Settings of the single-pass tasks: what their heads take, and the check of what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstem.choices import ACTIVATIONS, INITS, NORMS
from mainstem.errors import MainstemError, suggest

HEAD: dict[str, Any] = {
    "hidden": (),  # widths of hidden layers
    "activation": "relu",
    "norm": "none",
    "dropout": 0.0,
    "init": "default",
    "standardize": (),  # inputs whose features are brought to mean 0 and variance 1 over the training part
}
CHOICES: dict[str, tuple[str, ...]] = {"activation": ACTIVATIONS, "norm": NORMS, "init": INITS}
BELOW_ONE = ("dropout", "label_smoothing", "abstain")


def complete(task: str, asked: Mapping[str, Any] | None, own: Mapping[str, Any], choices: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The defaults of the head and of the task, then what was asked for. Raises MainstemError for all that is wrong at once."""
    result = {**HEAD, **own, **(asked or {})}
    wrong = [text for name, value in result.items() if (text := _wrong(name, value, {**HEAD, **own}, {**CHOICES, **choices}))]
    if wrong:
        raise MainstemError("; ".join(wrong), where=f"settings of the task '{task}'")
    return result


def _wrong(name: str, value: Any, known: Mapping[str, Any], choices: Mapping[str, tuple[str, ...]]) -> str:
    """What is wrong with one setting, "" where nothing is."""
    if name not in known:
        return f"unknown setting '{name}'. {suggest(name, known)}".rstrip(".")
    if name in choices:
        return "" if value in choices[name] else f"'{name}' cannot be {value!r}. {suggest(str(value), choices[name])}".rstrip(".")
    if name == "standardize":
        good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
        return "" if good else f"'standardize' is a list of inputs, not {value!r}"
    if name == "hidden":
        good = isinstance(value, list | tuple) and all(_is(int, width) and width > 0 for width in value)
        return "" if good else f"'hidden' is a list of widths, not {value!r}"
    if not _is((int, float), value) or value < 0 or (name in BELOW_ONE and value >= 1):
        return f"'{name}' is a number from 0 {'to below 1' if name in BELOW_ONE else 'on'}, not {value!r}"
    return ""


def _is(kind: Any, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
