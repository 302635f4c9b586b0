"""Texts as numbers on disk: tokenised once, in shards that appear whole or not at all, and read back as memory maps.

FOLDER/ recipe.json · 00000/ PART.tokens, PART.windows, shard.json, MANIFEST.json · 00001/ … · index.json (written last). A *window* is
what a network sees at once; which token begins a word is kept in the top bit. Killed while it is written, the same call goes on
after the last whole shard.
"""

from __future__ import annotations

import hashlib
import json
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
from mainstem.data.texts import Texts
from mainstem.errors import MainstemError

PARTS = ("train", "held_out")
INDEX = "index.json"
_RECIPE, _SHARD = "recipe.json", "shard.json"
_TOKENS = 1 << 23  # of a shard, at least: what is lost by a kill, and held in memory
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
    at = done[-1]["next"] if done else [0, 0]
    told = [sum(shard[part]["texts"] for shard in done for part in PARTS), sum(shard[part]["tokens"] for shard in done for part in PARTS)]
    shard = _Shard(recipe)
    rows = texts.read(*at)
    while chunk := list(islice(rows, _ROWS)):
        if stopped():
            raise KeyboardInterrupt
        shard.add([text for _, _, row in chunk for text in row], tokenise)
        if shard.tokens() >= _TOKENS:
            done.append(shard.save(folder, len(done), chunk[-1][:2]))
            told = [n + sum(done[-1][part][key] for part in PARTS) for n, key in zip(told, ("texts", "tokens"), strict=True)]
            shard = _Shard(recipe)
        report(told[0] + shard.texts(), told[1] + shard.tokens())
    if shard.texts():
        done.append(shard.save(folder, len(done), (len(texts.files), 0)))
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
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if path.name == f"{len(done):05d}" and not files.broken(path):
            done.append(json.loads((path / _SHARD).read_bytes()))
        else:
            files.remove(path)
    return done


class _Shard:
    """A shard being filled."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.values: dict[str, list[Array]] = {part: [] for part in PARTS}
        self.counts = {part: {"texts": 0, "tokens": 0, "bytes": 0} for part in PARTS}

    def add(self, texts: Sequence[str], tokenise: Tokenise) -> None:
        """Some texts, each to its part. A text without any token is none."""
        for text, (ids, begins) in zip(texts, tokenise(texts), strict=True):
            if not len(ids):
                continue
            part = PARTS[is_held_out(text, self.recipe.held_out)]
            marked = ids.astype(self.recipe.dtype) | np.where(begins, self.recipe.mark, 0).astype(self.recipe.dtype)
            if self.recipe.end >= 0:
                marked = np.append(marked, np.array(self.recipe.end | self.recipe.mark, self.recipe.dtype))
            self.values[part].append(marked)
            for key, n in (("texts", 1), ("tokens", len(marked)), ("bytes", len(text.encode()))):
                self.counts[part][key] += n

    def texts(self) -> int:
        return sum(counts["texts"] for counts in self.counts.values())

    def tokens(self) -> int:
        return sum(counts["tokens"] for counts in self.counts.values())

    def save(self, folder: Path, number: int, following: tuple[int, int]) -> dict[str, Any]:
        """Write it as a folder, and return what shard.json says."""
        told: dict[str, Any] = {"next": list(following)}
        with files.folder(folder / f"{number:05d}", {"format": 1}) as made:
            for part, values in self.values.items():
                joined = np.concatenate([np.zeros(0, self.recipe.dtype), *values])
                starts = _windows(np.array([len(value) for value in values], np.int64), self.recipe)
                made.add(f"{part}.tokens", joined.tobytes())
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
