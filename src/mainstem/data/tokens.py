"""Texts as numbers on disk: tokenised once, in shards that appear whole or not at all, and read back as memory maps.

FOLDER/ recipe.json · 00000/ PART.tokens, PART.windows, shard.json, MANIFEST.json · 00001/ … · index.json (written last). A *window* is
what a network sees at once; which token begins a word is kept in the top bit. The next shard grows in growing/ PART.tokens,
PART.sizes (of its texts), record.json: how much of them is on the disk, and the byte or row of the source that comes next. Killed
while it is written, the same call goes on there.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files
from mainstem.contracts import Array
from mainstem.data.similar import plain_text
from mainstem.data.texts import START, Place, Texts
from mainstem.errors import MainstemError

PARTS = ("train", "held_out")
INDEX = "index.json"
_RECIPE, _SHARD, _RECORD, _GROWING = "recipe.json", "shard.json", "record.json", "growing"
_FORMAT = 2
_TOKENS = 1 << 23  # of a shard, at least
_FLUSH = 1 << 18  # tokens, at least, that go to the disk together: held in memory, and done again after a kill
_ROWS = 512  # tokenised at once

Tokenise = Callable[[Sequence[str]], list[tuple[Array, Array]]]  # texts → ids [n] and whether each begins a word [n]


@dataclass(frozen=True)
class Recipe:
    """What token files are made of: another recipe makes others."""

    tokenizer: str
    """its SHA-256"""
    vocabulary: int
    length: int
    """tokens of a window, at most"""
    end: int = -1
    """the token after each text, where texts run on through the windows; -1: a window is of one text"""
    held_out: float = 0.02
    sources: list[list[Any]] = field(default_factory=list)
    """name and size of each file"""
    columns: list[str] = field(default_factory=list)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of a token with its mark."""
        return np.dtype(np.uint16 if self.vocabulary <= 1 << 15 else np.uint32)

    @property
    def mark(self) -> int:
        """The bit that says that a token begins a word."""
        return 1 << (8 * self.dtype.itemsize - 1)


def sources(texts: Texts) -> list[list[Any]]:
    """The files that texts are read from, for a recipe."""
    return [[path.name, path.stat().st_size] for path in texts.files]


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is only looked at: by its hash, so that copies of a text, also in another case or spacing, stand on one side."""
    digest = hashlib.blake2b(plain_text(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def write(
    texts: Texts,
    tokenise: Tokenise,
    folder: Path,
    recipe: Recipe,
    *,
    report: Callable[[int, int], None] = lambda texts, tokens: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Tokenise all texts into `folder`, or go on with it; at once back where it is done.

    report: is told how many texts and tokens there are so far. Raises MainstemError where the folder is of other data, or nothing is
    left to learn from or to look at, and KeyboardInterrupt once `stopped` says so.
    """
    asked = json.loads(json.dumps(asdict(recipe)))
    if (folder / _RECIPE).is_file():
        if json.loads((folder / _RECIPE).read_bytes()) != asked:
            raise MainstemError(
                "the data differs from that of the run to resume", where=str(folder), do="Start a new run without --resume."
            )
    else:
        files.write_json(folder / _RECIPE, asked)
    if (folder / INDEX).is_file():
        return
    files.sweep(folder)
    done = _whole(folder)
    at = Place(*done[-1]["next"]) if done else START
    told = [sum(shard[part][key] for shard in done for part in PARTS) for key in ("texts", "tokens")]
    shard = _Growing(folder, len(done), recipe, at)
    rows = texts.read(shard.next)
    ended = False
    while not ended:
        if shard.tokens() >= _TOKENS:
            done.append(shard.save())
            told = [n + sum(done[-1][part][key] for part in PARTS) for n, key in zip(told, ("texts", "tokens"), strict=True)]
            shard = _Growing(folder, len(done), recipe, shard.next)
        if stopped():
            raise KeyboardInterrupt
        chunk = list(islice(rows, _ROWS))
        ended = len(chunk) < _ROWS
        shard.add([text for row in chunk for text in row.texts], tokenise)
        if ended or shard.unwritten() >= _FLUSH or shard.tokens() >= _TOKENS:
            shard.flush(Place(len(texts.files)) if ended else chunk[-1].following())
        report(told[0] + shard.texts(), told[1] + shard.tokens())
    if shard.texts():
        done.append(shard.save())
    files.remove(folder / _GROWING)
    totals = {part: {key: sum(each[part][key] for each in done) for key in ("texts", "tokens", "bytes", "windows")} for part in PARTS}
    if not totals["train"]["windows"]:
        raise MainstemError("there is no text to learn from", where=str(texts.path))
    if not totals["held_out"]["windows"]:
        raise MainstemError(
            f"none of the {totals['train']['texts']:,} texts is held out, and nothing would show how well others are predicted",
            where=str(texts.path),
            do="Hold out a larger share: --set settings.held_out=0.1.",
        )
    files.write_json(folder / INDEX, {"shards": len(done), **totals})


def _whole(folder: Path) -> list[dict[str, Any]]:
    """shard.json of the shards that are whole; the first that is not is removed, with all after it."""
    done: list[dict[str, Any]] = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != _GROWING):
        if path.name == f"{len(done):05d}" and not files.broken(path) and _format(path) == _FORMAT:
            done.append(json.loads((path / _SHARD).read_bytes()))
        else:
            files.remove(path)
    return done


def _format(path: Path) -> Any:
    return json.loads((path / files.MANIFEST).read_bytes())["format"]


class _Growing:
    """The shard number `number`, being filled: what of it is on the disk already is gone on with, else it begins at `start`."""

    def __init__(self, folder: Path, number: int, recipe: Recipe, start: Place) -> None:
        self.folder, self.number, self.recipe = folder, number, recipe
        self.path = folder / _GROWING
        self.held: dict[str, list[Array]] = {part: [] for part in PARTS}
        if (record := self._recorded()) is None:
            files.remove(self.path)
            empty = {f"{part}.{kind}": {"size": 0, "crc32": 0} for part in PARTS for kind in ("tokens", "sizes")}
            counts = {part: {"texts": 0, "tokens": 0, "bytes": 0} for part in PARTS}
            record = {"number": number, "next": list(start), "files": empty, "counts": counts}
            with files.folder(self.path) as made:
                for name in empty:
                    made.add(name, b"")
                made.add_json(_RECORD, record)
        self.next, self.files, self.counts = Place(*record["next"]), record["files"], record["counts"]
        self.written = self.tokens()

    def _recorded(self) -> dict[str, Any] | None:
        """What record.json says, and the files cut to what it says of them; None where they are of another shard, or damaged."""
        try:
            record: dict[str, Any] = json.loads((self.path / _RECORD).read_bytes())
            if record["number"] != self.number:
                return None
            for name, told in record["files"].items():
                files.truncate(self.path / name, told["size"])
                if zlib.crc32((self.path / name).read_bytes()) != told["crc32"]:
                    return None
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record

    def add(self, texts: Sequence[str], tokenise: Tokenise) -> None:
        """Some texts, each to its part, in memory. A text without any token is none."""
        for text, (ids, begins) in zip(texts, tokenise(texts), strict=True):
            if not len(ids):
                continue
            part = PARTS[is_held_out(text, self.recipe.held_out)]
            marked = ids.astype(self.recipe.dtype) | np.where(begins, self.recipe.mark, 0).astype(self.recipe.dtype)
            if self.recipe.end >= 0:
                marked = np.append(marked, np.array(self.recipe.end | self.recipe.mark, self.recipe.dtype))
            self.held[part].append(marked)
            for key, n in (("texts", 1), ("tokens", len(marked)), ("bytes", len(text.encode()))):
                self.counts[part][key] += n

    def texts(self) -> int:
        return sum(counts["texts"] for counts in self.counts.values())

    def tokens(self) -> int:
        return sum(counts["tokens"] for counts in self.counts.values())

    def unwritten(self) -> int:
        return self.tokens() - self.written

    def flush(self, following: Place) -> None:
        """What is in memory goes to the disk; once it is there, so does the record, with the place of the row that comes next."""
        for part, values in self.held.items():
            sizes = np.array([len(value) for value in values], np.int64)
            for name, array in ((f"{part}.tokens", np.concatenate(values) if values else sizes), (f"{part}.sizes", sizes)):
                told, data = self.files[name], array.tobytes()
                if data:
                    files.append_bytes(self.path / name, data)
                self.files[name] = {"size": told["size"] + len(data), "crc32": zlib.crc32(data, told["crc32"])}
        self.next, self.written, self.held = following, self.tokens(), {part: [] for part in PARTS}
        record = {"number": self.number, "next": list(following), "files": self.files, "counts": self.counts}
        files.write_json(self.path / _RECORD, record)

    def save(self) -> dict[str, Any]:
        """Make a shard of what is on the disk, and return what shard.json says."""
        told: dict[str, Any] = {"next": list(self.next)}
        with files.folder(self.folder / f"{self.number:05d}", {"format": _FORMAT}) as made:
            for part in PARTS:
                starts = _windows(np.fromfile(self.path / f"{part}.sizes", np.int64), self.recipe)
                made.add(f"{part}.tokens", self.path / f"{part}.tokens")
                made.add(f"{part}.windows", starts.tobytes())
                told[part] = {**self.counts[part], "windows": len(starts) - 1}
            made.add_json(_SHARD, told)
        return told


def _windows(sizes: Array, recipe: Recipe) -> Array:
    """Texts of `sizes` tokens (int64 [n]), laid end to end → where their windows start, and the end of all (int64 [windows + 1]).

    Texts that run on fill every window but the last. Else a text that is too long for one gets as few as do, of like length.
    """
    if recipe.end >= 0:
        return np.append(np.arange(0, sizes.sum(), recipe.length), sizes.sum()).astype(np.int64)
    counts = -(-sizes // recipe.length)
    which = np.repeat(np.arange(len(sizes)), counts)
    within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = (np.cumsum(sizes) - sizes)[which] + within * sizes[which] // counts[which]
    return np.append(starts, sizes.sum()).astype(np.int64)


class Tokens:
    """One part of finished token files; nothing of it is held in memory but where its shards begin."""

    def __init__(self, folder: Path, part: str) -> None:
        try:
            recipe = json.loads((folder / _RECIPE).read_bytes())
            index = json.loads((folder / INDEX).read_bytes())
            self.recipe, self.counts = Recipe(**recipe), index[part]
            shards = [folder / f"{i:05d}" for i in range(index["shards"])]
            sizes = [json.loads((path / _SHARD).read_bytes())[part]["windows"] for path in shards]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MainstemError("these token files are not whole", where=str(folder), do="Start a new run.") from error
        kept = [(path, size) for path, size in zip(shards, sizes, strict=True) if size]
        self._ends = np.cumsum([size for _, size in kept])
        self._values = [np.memmap(path / f"{part}.tokens", self.recipe.dtype, "r") for path, _ in kept]
        self._starts = [np.memmap(path / f"{part}.windows", np.int64, "r") for path, _ in kept]

    def __len__(self) -> int:
        return int(self.counts["windows"])

    def take(self, indices: Array, more: int = 0) -> list[tuple[Array, Array]]:
        """The windows at `indices` (int [n]): ids (int64 [length]) and whether each begins a word, with up to `more` that follow."""
        return [self._window(shard, place, more) for shard, place in self._found(indices)]

    @cached_property
    def lengths(self) -> Lengths:
        """How many tokens windows have."""
        return Lengths(self)

    def _found(self, indices: Array) -> Iterator[tuple[int, int]]:
        indices = np.asarray(indices)
        shards = np.searchsorted(self._ends, indices, "right")
        before = np.concatenate([[0], self._ends])[shards]
        return zip(shards.tolist(), (indices - before).tolist(), strict=True)

    def _window(self, shard: int, place: int, more: int) -> tuple[Array, Array]:
        start, end = self._starts[shard][place : place + 2]
        marked = np.asarray(self._values[shard][start : end + more])
        return (marked & ~np.array(self.recipe.mark, marked.dtype)).astype(np.int64), marked >= self.recipe.mark


class Lengths:
    """The lengths of windows, looked up as they are asked for: `lengths[indices]` is int64 [n]."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, indices: Array) -> Array:
        found = self.tokens._found(indices)
        return np.array([np.diff(self.tokens._starts[shard][place : place + 2])[0] for shard, place in found], np.int64)


def summary(counts: Mapping[str, Any]) -> str:
    """How much text there is, in one sentence."""
    return f"{counts['texts']:,} texts, {counts['tokens']:,} tokens, {counts['bytes'] / 2**20:,.1f} MiB"
