"""Where the pairs of the contrastive objective come from: one text or picture seen twice, two texts, a text and a picture.

Each kind is a class with `towers` (which backbone reads the first and which the second of a pair), `read` (backbones as they are now
known, by tower), `sizes`, `whole`, `lengths` (of the texts to learn from, where there are some) and `take`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays, Material, Ref, State
from mainstem.data import pictures
from mainstem.data import tokens as token_files
from mainstem.data.pictures import Listed
from mainstem.data.texts import BETWEEN, Pairs, Texts
from mainstem.data.tokens import Recipe, Tokens
from mainstem.errors import MainstemError
from mainstem.modalities import image
from mainstem.objectives import _album
from mainstem.objectives._reader import Reader

Sides = tuple[Arrays, Arrays]
Random = np.random.Generator
_LEAST, _MOST = 0.25, 0.75  # of a text, where it is cut in two
_HELD_OUT = 10  # seed of the views of held-out pictures
VIEWS = ("parts", "dropout")


class TextViews:
    """A text seen twice: as two parts of it, or whole with two draws of dropout. Held-out texts are always seen as their two halves."""

    towers = ("text", "text")

    def __init__(self, texts: Texts, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        self.reader = Reader(ref, texts, material, float(settings["held_out"]), int(settings["length"]))
        self.read, self.texts = {"text": self.reader}, texts
        self.cut = settings["views"] == "parts"
        self.parts = _tokens(texts, self.reader.tokenise, self.reader, self.reader.room, material, float(settings["held_out"]))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many texts there are to learn from, and held out."""
        return len(self.parts[0]), len(self.parts[1])

    def whole(self) -> int:
        """How many rows all of the data has."""
        return sum(1 for _ in type(self.texts)(self.texts.path, self.texts.columns, self.texts.encoding).read())

    @property
    def lengths(self) -> Any:
        """Tokens of each text."""
        return self.parts[0].lengths

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The texts at `indices` as they are seen twice."""
        firsts, seconds = [], []
        for ids, _ in self.parts[held_out].take(indices):
            prefix, text = np.split(ids, [self.reader.prefix])
            at = round(len(text) * (rng.uniform(_LEAST, _MOST) if rng is not None else 0.5))
            at = min(max(1, at), len(text) - 1)
            first, second = np.split(text, [at]) if (self.cut or rng is None) and len(text) > 1 else (text, text)
            firsts.append(np.append(prefix, first))
            seconds.append(np.append(prefix, second))
        return self.reader.arrays(firsts), self.reader.arrays(seconds)


class TextPairs:
    """Two columns of texts, kept as one sequence of tokens whose mark says where the second begins."""

    towers = ("text", "text")

    def __init__(self, texts: Pairs, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        self.reader = Reader(ref, texts, material, float(settings["held_out"]), int(settings["length"]))
        self.read, self.texts = {"text": self.reader}, texts
        self.parts = _tokens(texts, self._tokenise, self.reader, 2 * self.reader.room, material, float(settings["held_out"]))

    def _tokenise(self, texts: Sequence[str]) -> list[tuple[Array, Array]]:
        halves = [self.reader.tokenise([text.split(BETWEEN)[side] for text in texts]) for side in (0, 1)]
        made = []
        for (first, _), (second, _) in zip(*halves, strict=True):
            whole = np.append(first, second) if len(first) and len(second) else np.zeros(0, np.int64)
            made.append((whole, np.arange(len(whole)) == len(first)))
        return made

    @property
    def sizes(self) -> tuple[int, int]:
        """How many pairs there are to learn from, and held out."""
        return len(self.parts[0]), len(self.parts[1])

    def whole(self) -> int:
        """How many rows all of the data has."""
        return sum(1 for _ in type(self.texts)(self.texts.path, self.texts.columns, self.texts.encoding).read())

    @property
    def lengths(self) -> Any:
        """Tokens of each pair."""
        return self.parts[0].lengths

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The pairs at `indices`."""
        windows = [np.split(ids, [int(np.argmax(begins))]) for ids, begins in self.parts[held_out].take(indices)]
        return self.reader.arrays([first for first, _ in windows]), self.reader.arrays([second for _, second in windows])


class PictureViews:
    """A picture seen twice, as random parts of it in random colours (SimCLR, Chen et al. 2020, arXiv:2002.05709)."""

    towers = ("image", "image")
    lengths = None

    def __init__(self, listed: Listed, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        self.eye = Eye(ref, settings)
        self.read = {"image": self.eye}
        self.parts = _album.opened(listed, material, float(settings["held_out"]))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many pictures there are to learn from, and held out."""
        return len(self.parts[0]), len(self.parts[1])

    def whole(self) -> int:
        """How many rows all of the data has."""
        return len(self.parts[0].listed.names)

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The pictures at `indices` as they are seen twice; held-out ones always the same way."""
        found = self.parts[held_out].take(indices)
        if rng is not None:
            return self.eye.arrays(found, rng), self.eye.arrays(found, rng)
        views = [
            [self.eye.arrays([picture], np.random.default_rng((_HELD_OUT, side, index))) for side in (0, 1)]
            for picture, index in zip(found, indices.tolist(), strict=True)
        ]
        first, second = ({"pixels": np.concatenate([view[side]["pixels"] for view in views])} for side in (0, 1))
        return first, second


class Captions:
    """A text and the picture beside it, each read by a backbone of its own (CLIP, Radford et al. 2021, arXiv:2103.00020)."""

    towers = ("text", "image")
    lengths = None

    def __init__(self, table: Texts, refs: Mapping[str, Ref], material: Material, settings: Mapping[str, Any]) -> None:
        self.eye = Eye(refs["image"], settings)
        place = pictures.holds_pictures(table).index(False)
        texts = Texts(material.data, [table.columns[place]], material.encoding)
        self.reader = Reader(refs["text"], texts, material, float(settings["held_out"]), int(settings["length"]))
        self.read = {"text": self.reader, "image": self.eye}
        self.parts = _album.opened(pictures.of_table(table), material, float(settings["held_out"]))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many pairs there are to learn from, and held out."""
        return len(self.parts[0]), len(self.parts[1])

    def whole(self) -> int:
        """How many rows all of the data has."""
        return len(self.parts[0].listed.names)

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The pairs at `indices`; held-out pictures whole."""
        part = self.parts[held_out]
        ids = [found for found, _ in self.reader.tokenise(part.texts(indices))]
        return self.reader.arrays(ids), self.eye.arrays(part.take(indices), rng)


class Eye:
    """How a backbone of pictures reads them."""

    def __init__(self, ref: Ref, settings: Mapping[str, Any]) -> None:
        self.ref, self.info = ref, _album.described(ref, "vit")
        names = ("crop", "flip", "color", "hue", "grey")
        self.processor = {**self.info.processor, "augment": {name: settings[name] for name in names}}

    def arrays(self, found: Sequence[image.Picture], rng: Random | None) -> Arrays:
        """Pictures → what the network takes; with `rng` as random views."""
        arrays, _ = image.plugin.encode(found, self.processor, State(), rng)
        return arrays


def _tokens(texts: Texts, tokenise: Any, reader: Reader, length: int, material: Material, held_out: float) -> tuple[Tokens, Tokens]:
    """Token files with one window a text, and both of their parts."""
    recipe = Recipe(
        tokenizer=hashlib.sha256(reader.data).hexdigest(),
        vocabulary=reader.tokenizer.get_vocab_size(),
        length=length,
        held_out=held_out,
        sources=token_files.sources(texts),
        columns=list(texts.columns),
    )
    folder = material.folder / "tokens" / str(length)
    token_files.write(texts, tokenise, folder, recipe, stopped=material.stopped)
    train, looked_at = Tokens(folder, "train"), Tokens(folder, "held_out")
    material.say(f"to learn from: {token_files.summary(train.counts)}; held out: {token_files.summary(looked_at.counts)}")
    return train, looked_at


def kind_of(material: Material) -> tuple[str, Any]:
    """Which kind of pairs the data holds, and the data: a folder of pictures, or the columns of a table.

    Raises MainstemError where the columns hold anything else than one or two texts, a picture, or a picture and a text.
    """
    if not material.inputs and pictures.is_folder(material.data):
        return "pictures", pictures.of_folder(material.data)
    table = Texts(material.data, material.inputs, material.encoding, wanted=("text", "image"))
    for note in table.notes:
        material.say(note)
    held = pictures.holds_pictures(table)
    if len(held) < 2:
        if any(held):
            return "pictures", pictures.of_table(table)
        return "texts", Texts(material.data, table.columns, material.encoding, material.rows)
    if len(held) > 2 or all(held):
        raise MainstemError(
            f"a pair is of two texts or of a text and a picture, not of {' and '.join(map(repr, table.columns))}", do="Name two columns."
        )
    if any(held):
        return "captions", table
    return "pairs", Pairs(material.data, material.inputs, material.encoding, material.rows)
