"""The tokenizer of an objective of texts: the backbone's own, or one trained on the texts first; and which tokens begin a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Encoding, Tokenizer

from mainstem import files
from mainstem.contracts import Array, Info, Material, State
from mainstem.data.texts import Texts
from mainstem.data.tokens import is_held_out
from mainstem.modalities import text as modality

FILE = "tokenizer.json"
_TRAINED_ON = 100 << 20  # bytes of text that a tokenizer is trained on, at most about
_ASKED = 512  # rows between two questions whether to stop


def data(info: Info, texts: Texts, material: Material, held_out: float) -> bytes:
    """The bytes of the backbone's own tokenizer, or of one trained on the texts that are not held out, which the run's folder keeps."""
    place = material.folder / FILE
    if "train" not in info.processor:
        state: State = modality.plugin.fit(info.processor, [])
        return next(iter(state.files.values()))
    if not place.is_file():
        asked = info.processor["train"]
        material.say(f"training a tokenizer of {asked['vocab_size']:,} tokens")
        taught = _taught(texts, held_out, material.stopped)
        files.write_bytes(place, modality.train_tokenizer(taught, asked["vocab_size"], asked.get("end", "")))
    return place.read_bytes()


def _taught(texts: Texts, held_out: float, stopped: Callable[[], bool]) -> Iterator[str]:
    """The texts that a tokenizer is trained on: of many, some of all files, chosen by their hash; none that is held out."""
    share = held_out + (1 - held_out) * min(1.0, _TRAINED_ON / max(1, texts.size()))
    for number, row in enumerate(texts.read()):
        if number % _ASKED == 0 and stopped():
            raise KeyboardInterrupt
        yield from (text for text in row.texts if not is_held_out(text, held_out) and is_held_out(text, share))


def opened(data: bytes) -> Tokenizer:
    """The tokenizer of these bytes, which neither pads nor cuts, and to which "[SEP]" in a text is five characters."""
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenise(tokenizer: Tokenizer, begin: int, texts: Sequence[str]) -> list[tuple[Array, Array]]:
    """Texts → their tokens (int64 [n]), after `begin` where that is 0 or more, and whether each begins a word (bool [n])."""
    made = []
    for text, encoding in zip(texts, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
        ids, begins = np.array(encoding.ids, np.int64), begins_of(encoding, text)
        if begin >= 0 and len(ids):
            ids, begins = np.append(begin, ids), np.append(True, begins)
        made.append((ids, begins))
    return made


def begins_of(encoding: Encoding, text: str) -> Array:
    """Whether each token begins a word: one that the tokenizer parts, or a character that is a word by itself (Chinese, Japanese)."""
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    begins = np.ones(len(words), bool)
    begins[1:] = words[1:] != words[:-1]
    if not text.isascii() and len(words):
        starts = np.array([start for start, _ in encoding.offsets], np.int64)
        alone = modality.ideographs(text)[np.minimum(starts, len(text) - 1)]
        begins[1:] |= (starts[1:] != starts[:-1]) & (alone[1:] | alone[:-1])
    return begins


def special(tokenizer: Tokenizer) -> set[int]:
    """The ids of the tokenizer's special tokens."""
    return {int(number) for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def named(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    """The id of the first of these tokens that the tokenizer has."""
    return next((number for name in names if (number := tokenizer.token_to_id(name)) is not None), None)
