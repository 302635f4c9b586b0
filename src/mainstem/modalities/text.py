"""Texts, in one of two forms: hashed n-grams of words and characters (any language), or the tokens of a backbone's tokenizer.

What reads n-grams is in `_Grams`: one pass over the code points of many texts at once, no loop over words.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mainstem import schema
from mainstem.contracts import Array, Arrays, Json, Meta, State
from mainstem.errors import MainstemError
from mainstem.modalities.category import spell

PORTION = 50_000  # characters that are tokenized at a time
TOKENIZER = "tokenizer.json"  # its name in State.files
_SPACE, _OTHER, _WORD, _CJK = 0, 1, 2, 3  # classes of code points
_CHUNK = 1 << 17  # code points handled at once: small enough for the cache of the processor
_STEP, _FOLD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd: multiplying loses nothing


@cache
def _classes() -> Array:
    """uint8 [0x110000]: the class of every code point; beyond U+323AF nothing is assigned that is text."""
    classes = np.full(0x110000, _OTHER, np.uint8)
    named = [unicodedata.category(chr(code))[0] for code in range(0x323B0)]
    classes[: len(named)] = [_WORD if c in "LMN" else _SPACE if c in "ZC" else _OTHER for c in named]
    classes[[9, 10, 11, 12, 13]] = _SPACE
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)):  # kana, han
        classes[first : last + 1] = _CJK
    return classes


def ideographs(text: str) -> Array:
    """Whether each character is one of those that are words by themselves: kana and han (bool [characters])."""
    found: Array = _classes()[np.frombuffer(text.encode("utf-32-le"), np.uint32)] == _CJK
    return found


def _mixed(hashes: Array, salt: int) -> Array:
    """uint64 → uint64 whose high bits depend on every bit (the multiply-and-shift finaliser of 64-bit hashes)."""
    hashes = (hashes ^ np.uint64(salt)) * _FOLD
    hashes ^= hashes >> np.uint64(32)
    hashes *= _STEP
    return hashes


@dataclass(frozen=True)
class _Grams:
    """The settings of the form "ngrams"."""

    word_max: int = 2
    char_min: int = 2
    char_max: int = 5
    cjk_max: int = 3
    buckets: int = 1 << 17
    most: int = 4096
    min_df: int = 1
    idf: bool = True
    norm: str = "l2"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> _Grams:
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__ if name in settings})

    def count(self, texts: Sequence[str]) -> Iterator[tuple[int, Array, Array, Array]]:
        """Chunks of texts → (first text, row int64 [m], bucket int64 [m], times int64 [m]), sorted by row and bucket."""
        for first, chunk in _chunks(texts):
            rows, buckets = self._occurrences(chunk)
            keys, times = np.unique(rows * self.buckets + buckets, return_counts=True)
            yield first, keys // self.buckets, keys % self.buckets, times

    def _occurrences(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Row and bucket of every n-gram of the texts, in no order. Bucket 0 is left free for padding."""
        joined = " " + "  ".join(texts) + " "
        codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        classes = _classes()[codes]
        lengths = np.array([len(text) + 2 for text in texts])
        rows = np.repeat(np.arange(len(texts)), lengths)
        points = np.where(classes == _SPACE, np.uint64(32), codes.astype(np.uint64)) * _STEP
        points ^= points >> np.uint64(29)
        found = [*self._characters(points, classes, rows), *self._words(points, classes, rows)]
        hashes = np.concatenate([h for _, h in found])
        scaled = (hashes >> np.uint64(32)) * np.uint64(self.buckets - 1) >> np.uint64(32)  # no slow division
        return np.concatenate([r for r, _ in found]), scaled.astype(np.int64) + 1

    def _characters(self, points: Array, classes: Array, rows: Array) -> Iterator[tuple[Array, Array]]:
        """n-grams of characters within stretches without space; the space before and after a stretch counts as its mark."""
        spaces = np.concatenate([[0], np.cumsum(classes == _SPACE)])
        cjk = np.concatenate([[0], np.cumsum(classes == _CJK)])
        hashes = np.zeros(len(points), np.uint64)
        for n in range(1, max(self.char_max, self.cjk_max) + 1):
            count = len(points) - n + 1
            if count <= 0:
                return
            hashes = hashes[:count] * _FOLD + points[n - 1 :]
            inner = spaces[max(n - 1, 1) : max(n - 1, 1) + count] - spaces[1 : 1 + count]  # between the first and the last
            valid = (inner == 0) & (spaces[n:] - spaces[:count] < min(n, 3))
            has_cjk = cjk[n:] > cjk[:count]
            valid &= np.where(has_cjk, n <= self.cjk_max, self.char_min <= n <= self.char_max)
            at = np.flatnonzero(valid)
            yield rows[at], _mixed(hashes[at], n)

    def _words(self, points: Array, classes: Array, rows: Array) -> Iterator[tuple[Array, Array]]:
        """n-grams of words: stretches of letters, marks and digits; Chinese and Japanese signs are characters, not words."""
        inside = np.concatenate([[False], classes == _WORD, [False]])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        starts, ends = edges[::2], edges[1::2]
        if not len(starts):
            return
        lengths = ends - starts
        at = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
        powers = np.cumprod(np.full(int(lengths.max()), _FOLD, np.uint64))
        terms = points[at] * powers[at - np.repeat(starts, lengths)]
        words = _mixed(np.add.reduceat(terms, np.cumsum(lengths) - lengths), 101)
        rows, grams = rows[starts], words
        for n in range(1, self.word_max + 1):
            if n > 1:
                grams = _mixed(grams[:-1], 100 + n) + words[n - 1 :]
                if not len(grams):
                    return
            same = rows[: len(grams)] == rows[n - 1 :]
            yield rows[: len(grams)][same], _mixed(grams[same], 200 + n)

    def fit(self, texts: Sequence[str]) -> State:
        """{"idf": float32 [buckets]}: log((1+n)/(1+df))+1, 0 for buckets of fewer than `min_df` texts (they are left out)."""
        seen = np.zeros(self.buckets, np.int64)
        for _, _, buckets, _ in self.count(texts):
            seen += np.bincount(buckets, minlength=self.buckets)
        rarity = np.log((1 + len(texts)) / (1 + seen)) + 1 if self.idf else np.ones(self.buckets)
        return State({"buckets": self.buckets}, {"idf": np.where(seen >= max(1, self.min_df), rarity, 0).astype(np.float32)})

    def encode(self, texts: Sequence[str], idf: Array) -> dict[str, Array]:
        """→ {"ids": int64 [n, L], "weights": float32 [n, L]}, L the longest row here; padding has id 0 and weight 0."""
        parts = [self._weighed(*chunk, idf) for chunk in self.count(texts)]
        rows, ids, weights = (np.concatenate([p[i] for p in parts]) if parts else np.zeros(0) for i in range(3))
        counts = np.bincount(rows.astype(np.int64), minlength=len(texts))
        width = int(counts.max(initial=1)) or 1
        filled = np.arange(width) < counts[:, None]
        padded_ids, padded_weights = np.zeros(filled.shape, np.int64), np.zeros(filled.shape, np.float32)
        padded_ids[filled], padded_weights[filled] = ids, weights
        return {"ids": padded_ids, "weights": padded_weights}

    def _weighed(self, first: int, rows: Array, ids: Array, times: Array, idf: Array) -> tuple[Array, Array, Array]:
        known = idf[ids] > 0
        rows, ids = rows[known], ids[known]
        weights = np.log1p(times[known]) * idf[ids]
        counts = np.bincount(rows)
        if counts.max(initial=0) > self.most:
            order = np.lexsort((ids, -weights, rows))  # the heaviest first within each row
            place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            kept = np.sort(order[place < self.most])
            rows, ids, weights = rows[kept], ids[kept], weights[kept]
        total = np.bincount(rows, weights**2 if self.norm == "l2" else weights, minlength=1)
        weights = weights / (np.sqrt(total) if self.norm == "l2" else total)[rows]
        return rows + first, ids, weights.astype(np.float32)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Texts in a plain form (compatible Unicode, lower case), in runs of about `_CHUNK` code points, with their first number."""
    first, size, chunk = 0, 0, []
    for number, text in enumerate(texts):
        chunk.append((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())
        size += len(chunk[-1])
        if size >= _CHUNK:
            yield first, chunk
            first, size, chunk = number + 1, 0, []
    if chunk:
        yield first, chunk


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in runs of about PORTION characters: what a tokenizer holds of a text takes hundreds of times its size until it is cut."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > PORTION:
            yield part
            size, part = 0, []
        part.append(text)
        size += len(text)
    if part:
        yield part


@lru_cache(maxsize=8)
def _tokenizer(data: bytes, max_length: int) -> Tokenizer:
    """The tokenizer of these bytes, cutting at `max_length` tokens (0: nowhere). bytes remember their hash: looking it up is quick."""
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length) if max_length else tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "[SEP]" written by a user is five characters, not the end of a part
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int, end: str = "") -> bytes:
    """A byte-level BPE (Sennrich et al. 2016; GPT-2's bytes) as tokenizer.json, with the special tokens of BERT, or with `end` alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [end] if end else ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if end:
        return str(tokenizer.to_str()).encode()
    pairs = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=pairs
    )
    return str(tokenizer.to_str()).encode()


def _fit_tokens(settings: Mapping[str, Any], texts: Sequence[str]) -> State:
    if "train" in settings:
        data = train_tokenizer(texts, int(settings["train"].get("vocab_size", 8000)), settings["train"].get("end", ""))
    else:
        path = Path(settings["file"])
        try:
            data = path.read_bytes()
            Tokenizer.from_str(data.decode())
        except Exception as error:  # the tokenizers library raises bare Exception
            raise MainstemError("this is no readable tokenizer.json", where=str(path), do="Give a folder as the hub keeps it.") from error
    described = json.loads(data)
    tokenizer = Tokenizer.from_str(data.decode())
    known = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    pad = (described.get("padding") or {}).get("pad_id", next((i for i in known if i is not None), 0))
    return State({"vocab_size": tokenizer.get_vocab_size(), "pad": pad}, files={settings.get("tokenizer", TOKENIZER): data})


class Text:
    """The modality of texts.

    Settings: "form" ngrams (default), tokens, or plain (no arrays: a task encodes it itself).
    ngrams: "word_max", "char_min", "char_max", "cjk_max" (lengths), "buckets", "most" (n-grams a row), "min_df", "idf",
    "norm" (l2 or mean). tokens: "file" (a tokenizer.json to take) or "train" {"vocab_size", "end": the only special token},
    "tokenizer" (its name in State.files), "max_length" (0: any), "prefix", "pad", "begin" (the id that every text starts
    with, in place of the tokenizer's own special tokens).
    """

    fit_only = ("file", "train")  # a model holds the tokenizer, not where it came from

    def parse(self, raw: Any, settings: Mapping[str, Any]) -> str | None:
        """A cell → str. Raises MainstemError for what is neither text nor a number, and for half surrogate pairs."""
        if schema.is_missing(raw):
            return None
        if isinstance(raw, str):
            return schema.checked(raw)
        if isinstance(raw, bool | np.bool_):
            return str(bool(raw))
        if isinstance(raw, Real | Decimal):
            return spell(raw)
        raise MainstemError(f"expected text, found {schema.show(raw)}", do="Give a string.")

    def fit(self, settings: Mapping[str, Any], values: Sequence[str | None]) -> State:
        """n-grams: how rare each bucket is. tokens: the tokenizer's bytes, taken from a file or trained, and its pad id."""
        texts = [value or "" for value in values]
        form = _form(settings)
        return _fit_tokens(settings, texts) if form == "tokens" else _Grams.of(settings).fit(texts) if form == "ngrams" else State()

    def encode(
        self, values: Sequence[str | None], settings: Mapping[str, Any], state: State, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """→ {"ids": int64 [n, L], "weights": float32 [n, L]} or {"ids", "mask": int64 [n, L]}; a missing text is an empty one."""
        texts = [value or "" for value in values]
        if _form(settings) == "plain":
            return {}, {}
        if _form(settings) == "ngrams":
            return _Grams.of(settings).encode(texts, state.arrays["idf"]), {}
        return padded(self.tokens(texts, settings, state), int(settings.get("pad", state.json.get("pad", 0)))), {}

    def tokens(self, texts: Sequence[str], settings: Mapping[str, Any], state: State) -> list[list[int]]:
        """The token ids of each text, in the form "tokens"."""
        begin, longest = settings.get("begin"), int(settings.get("max_length", 256))
        room = longest - (begin is not None) if longest else 0
        tokenizer = _tokenizer(state.files[settings.get("tokenizer", TOKENIZER)], room)
        made: list[list[int]] = []
        for part in _portions([settings.get("prefix", "") + text for text in texts]):
            # not named, so that what the tokenizer holds of one portion is gone before the next
            made += [
                one.ids if begin is None else [begin, *one.ids]
                for one in tokenizer.encode_batch_fast(part, add_special_tokens=begin is None)
            ]
        return made

    def untokenize(self, ids: Sequence[int], settings: Mapping[str, Any], state: State) -> str:
        """Token ids → their text, without special tokens."""
        tokenizer = _tokenizer(state.files[settings.get("tokenizer", TOKENIZER)], int(settings.get("max_length", 256)))
        return str(tokenizer.decode(list(ids)))

    def decode(self, arrays: Arrays, meta: Meta, settings: Mapping[str, Any], state: State) -> list[str]:
        """{"ids", "mask"} of tokens → texts. n-grams do not lead back to a text: raises TypeError."""
        if _form(settings) != "tokens":
            raise TypeError("only tokens can be decoded")
        rows = zip(np.asarray(arrays["ids"]), np.asarray(arrays["mask"]) > 0, strict=True)
        return [self.untokenize(ids[mask].tolist(), settings, state) for ids, mask in rows]

    def edges(self, settings: Mapping[str, Any], state: State) -> list[Any]:
        """Cells that another reader might take otherwise: missing ones, and a text of many scripts, cases and forms."""
        return [None, "N/A", "UPPER lower, ＷＩＤＥ and cafe\u0301\tdon't  İstanbul; 中文，测试。 😀 3.50"]

    def render(self, value: str | None, accept: str = "application/json") -> Json:
        """A JSON string, or null."""
        return value


def padded(rows: Sequence[Sequence[int]], pad: int = 0) -> dict[str, Array]:
    """Token ids of differing lengths → {"ids", "mask": int64 [n, L]}, L the longest, at least 1; the right end is filled with `pad`."""
    if len(rows) == 1 and rows[0]:
        ids = np.array(rows, np.int64)
        return {"ids": ids, "mask": np.ones_like(ids)}
    lengths = np.array([len(row) for row in rows], np.int64)
    mask = np.arange(max(1, lengths.max(initial=1))) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return {"ids": ids, "mask": mask.astype(np.int64)}


def _form(settings: Mapping[str, Any]) -> str:
    form = str(settings.get("form", "ngrams"))
    if form not in ("ngrams", "tokens", "plain"):
        raise MainstemError(f"there is no form of text '{form}'", do="Known: ngrams, tokens, plain.")
    return form


plugin = Text()
