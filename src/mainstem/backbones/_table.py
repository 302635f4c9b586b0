"""The `table` input as networks see it: how many numbers and categories there are, read from the fitted state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mainstem.backbones import _own
from mainstem.contracts import Port, Ref


@dataclass(frozen=True)
class Columns:
    """`numbers`: how many; `categories`: how many ids each has, 0 (missing) and 1 (unseen) counted.

    `gaps`: positions, the numbers first, of those that had missing values in training.
    """

    numbers: int = 0
    categories: tuple[int, ...] = ()
    gaps: tuple[int, ...] = ()

    def ports(self) -> tuple[Port, ...]:
        """Ports of the arrays that there are."""
        numbers = (Port("numbers", "float32", ("row", str(self.numbers))),) if self.numbers else ()
        return numbers + ((Port("categories", "int64", ("row", str(len(self.categories)))),) if self.categories else ())

    def json(self) -> dict[str, Any]:
        """For config.json."""
        return asdict(self)


def columns(ref: Ref) -> Columns:
    """The columns of the backbone's folder, else of the processor's fitted state; empty before either is there."""
    kept = _own.config(ref).get("columns")
    if kept:
        return Columns(kept["numbers"], tuple(kept["categories"]), tuple(kept["gaps"]))
    numbers, categories = ref.state.json.get("numbers", ()), ref.state.json.get("categories", ())
    names, gaps = [*numbers, *(c["name"] for c in categories)], ref.state.json.get("gaps", ())
    return Columns(len(numbers), tuple(len(c["values"]) + 2 for c in categories), tuple(i for i, n in enumerate(names) if n in gaps))
