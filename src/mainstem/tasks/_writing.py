"""Tokens that come one by one → text: whole characters only, ended before a stop string, never taken back once handed out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to


class Writer:
    """One text that grows. `decode`: token ids → text; `context`: tokens that stand before it; `stop`: what ends it."""

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self.decode, self.stop = decode, stop
        self.text = ""
        self.stopped = False
        self._all, self._context = list(context), len(context)
        self._told = 0  # characters handed out
        self._from, self._read = 0, len(context)  # tokens: where the last decoded stretch began, and how far text goes

    @property
    def tokens(self) -> list[int]:
        """The tokens that were taken."""
        return self._all[self._context :]

    def add(self, token: int) -> str:
        """Take the next token; the text that may be handed out now: what cannot become part of a stop string any more."""
        self._all.append(token)
        added = self._new()
        if not added.endswith(BROKEN):
            self._take(added)
        return self._handed(0 if self.stopped else self._held_back())

    def end(self) -> str:
        """The rest of the text, once no token comes any more."""
        if not self.stopped:
            self._take(self._new())
        return self._handed(0)

    def _new(self) -> str:
        """The text of the tokens behind what was read; decoded with what stands before, for how a word begins depends on it."""
        return self.decode(self._all[self._from :])[len(self.decode(self._all[self._from : self._read])) :]

    def _take(self, added: str) -> None:
        self.text += added
        self._from, self._read = self._read, len(self._all)
        found = [place for text in self.stop if (place := self.text.find(text, max(0, self._told - len(text)))) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _held_back(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        return max((n for text in self.stop for n in range(1, len(text)) if self.text.endswith(text[:n])), default=0)

    def _handed(self, held_back: int) -> str:
        until = max(self._told, len(self.text) - held_back)
        told, self._told = self.text[self._told : until], until
        return told
