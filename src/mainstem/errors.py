"""What a user can cause: one sentence what, where it is, what to do. Everything else is a bug of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MainstemError(Exception):
    """A mistake that the user can mend. The command line prints it and exits 2; the server answers 4xx.

    what: the sentence that says what is wrong, without a full stop at the end.
    where: file, row, column or field ("reviews.csv:17 column 'price'"), or "" where there is none.
    do: what to type or change next, or "".
    """

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__(what, where, do)
        self.what, self.where, self.do = what, where, do

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = text if text.endswith((".", "?", "!")) else f"{text}."
        return f"{text} {self.do}".rstrip()


class MissingExtra(MainstemError):
    """Something needs a library that is not installed."""

    def __init__(self, what: str, extra: str, missing: str = "") -> None:
        super().__init__(
            f"{what} needs {missing or f'the extra [{extra}]'}, which is not installed",
            do=f"pip install 'mainstem[{extra}]'",
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was lacking; libraries written in C++ have no exception of their own for it."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad_alloc" in str(error) or "bad allocation" in str(error)


def suggest(name: str, known: Iterable[str]) -> str:
    """The second half of an "unknown name" message: the nearest known name, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    listed = f"Known: {', '.join(names)}." if names else ""
    return f"Did you mean '{near[0]}'? {listed}" if near else listed
