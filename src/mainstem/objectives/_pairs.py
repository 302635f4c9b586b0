"""Where the pairs of the contrastive objective come from: one text or picture seen twice, two texts, a text and a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from mainstem import registry
from mainstem.contracts import Array, Arrays, Info, Material, Ref, State
from mainstem.data import pictures
from mainstem.data import tokens as token_files
from mainstem.data.pictures import Listed
from mainstem.data.texts import BETWEEN, Pairs, Texts
from mainstem.data.tokens import Recipe, Tokens
from mainstem.errors import MainstemError
from mainstem.modalities import image
from mainstem.objectives import _album, _neighbours
from mainstem.objectives._reader import Reader

VIEWS = ("parts", "dropout", "neighbours")
Random = np.random.Generator
Sides = tuple[Arrays, Arrays]  # what the networks take: the first of each pair, and the second
_LEAST, _MOST = 0.25, 0.75  # of a text, where it is cut in two
_HELD_OUT = 10  # seed of the views of held-out pictures
_OTHERS = 4096  # averages that those of a batch are told from, at most


class Source:
    """Pairs of one kind. `towers`: the modality of the backbone that reads the first of a pair, and the second; "": none does, since
    "features" are given.

    read: backbones by modality, with what was found out about them. parts: what is learned from, and what is held out; sizes: how many
    pairs each of them has. taken: the share of the rows that were looked at. lengths: of the pairs to learn from, in tokens, looked up
    by index.
    """

    towers: ClassVar[tuple[str, str]]

    def __init__(self, read: Mapping[str, Reader | Eye], parts: tuple[Any, Any], taken: float, lengths: Any = None) -> None:
        self.read, self.parts, self.taken, self.lengths = read, parts, taken, lengths
        self.sizes = (len(parts[0]), len(parts[1]))

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The pairs at `indices`; without `rng` always the same."""
        raise TypeError(f"{type(self).__name__} has no pairs")


class TextViews(Source):
    """A text seen twice: as two parts of it, or whole with two draws of dropout. Held-out texts are always seen as their two halves."""

    towers = ("text", "text")

    def __init__(self, texts: Texts, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        self.cut = settings["views"] == "parts"
        self.reader = Reader(ref, texts, material, float(settings["held_out"]), int(settings["length"]))
        parts = _tokens(texts, self.reader.tokenise, self.reader, self.reader.room, material, float(settings["held_out"]))
        super().__init__({"text": self.reader}, parts, texts.taken(), parts[0].lengths)

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


class TextNeighbours(TextViews):
    """A text beside the average of what the brought backbone makes of it and of its neighbours. others: some such averages [M, D]."""

    towers = ("text", "")

    def __init__(self, texts: Texts, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        if not registry.load("backbones", ref.family).plugin.describe(ref).pretrained:
            raise MainstemError(
                f"'{ref.text}' has learned nothing yet that could be averaged over neighbours",
                where="settings.views",
                do="Name a backbone with weights, or another view: parts, dropout.",
            )
        super().__init__(texts, ref, material, settings)
        path = material.folder / f"neighbours-{self.reader.room}.float32"
        self.averages = _neighbours.targets(self.parts, partial(_frozen, self.reader), path, material)
        spread = np.linspace(0, self.sizes[0] - 1, min(_OTHERS, self.sizes[0])).round().astype(np.int64)
        self.others = self.averages[0][spread]

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The texts at `indices`, and their averages as "features" (float32 [rows, D])."""
        ids = [ids for ids, _ in self.parts[held_out].take(indices)]
        return self.reader.arrays(ids), {"features": self.averages[held_out][indices]}


def _frozen(reader: Reader) -> _neighbours.Read:
    import torch

    plugin = registry.load("backbones", reader.ref.family).plugin
    module = plugin.build(reader.ref).eval()

    def read(ids: list[Array]) -> Array:
        arrays = {name: torch.from_numpy(array) for name, array in reader.arrays(ids).items()}
        with torch.inference_mode():
            made: Array = plugin.forward(module, arrays)[reader.info.pooled].float().numpy()
        return made

    return read


class TextPairs(Source):
    """Two columns of texts, kept as one sequence of tokens whose mark says where the second begins."""

    towers = ("text", "text")

    def __init__(self, texts: Pairs, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        self.reader = Reader(ref, texts, material, float(settings["held_out"]), int(settings["length"]))
        parts = _tokens(texts, self._tokenise, self.reader, 2 * self.reader.room, material, float(settings["held_out"]))
        super().__init__({"text": self.reader}, parts, texts.taken(), parts[0].lengths)

    def _tokenise(self, texts: Sequence[str]) -> list[tuple[Array, Array]]:
        halves = [self.reader.tokenise([text.split(BETWEEN)[side] for text in texts]) for side in (0, 1)]
        made = []
        for (first, _), (second, _) in zip(*halves, strict=True):
            whole = np.append(first, second) if len(first) and len(second) else np.zeros(0, np.int64)
            made.append((whole, np.arange(len(whole)) == len(first)))
        return made

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The pairs at `indices`."""
        windows = [np.split(ids, [int(np.argmax(begins))]) for ids, begins in self.parts[held_out].take(indices)]
        return self.reader.arrays([first for first, _ in windows]), self.reader.arrays([second for _, second in windows])


class PictureViews(Source):
    """A picture seen twice, as random parts of it in random colours (SimCLR, Chen et al. 2020, arXiv:2002.05709)."""

    towers = ("image", "image")

    def __init__(self, listed: Listed, ref: Ref, material: Material, settings: Mapping[str, Any]) -> None:
        self.eye = Eye(ref, settings)
        parts = _album.opened(listed, material, float(settings["held_out"]))
        super().__init__({"image": self.eye}, parts, parts[0].taken)

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


class Captions(Source):
    """A text and the picture beside it, each read by a backbone of its own (CLIP, Radford et al. 2021, arXiv:2103.00020)."""

    towers = ("text", "image")

    def __init__(self, table: Texts, refs: Mapping[str, Ref], material: Material, settings: Mapping[str, Any]) -> None:
        self.eye = Eye(refs["image"], settings)
        listed = pictures.of_table(table)
        texts = Texts(material.data, [table.columns[pictures.holds_pictures(table).index(False)]], material.encoding, material.rows)
        self.reader = Reader(refs["text"], texts, material, float(settings["held_out"]), int(settings["length"]))
        parts = _album.opened(listed, material, float(settings["held_out"]))
        super().__init__({"text": self.reader, "image": self.eye}, parts, parts[0].taken)

    def take(self, held_out: bool, indices: Array, rng: Random | None) -> Sides:
        """The pairs at `indices`; held-out pictures whole."""
        part = self.parts[held_out]
        ids = [found for found, _ in self.reader.tokenise(part.texts(indices))]
        return self.reader.arrays(ids), self.eye.arrays(part.take(indices), rng)


class Eye:
    """How a backbone of pictures reads them."""

    def __init__(self, ref: Ref, settings: Mapping[str, Any]) -> None:
        self.ref = ref
        self.info: Info = _album.described(ref, "vit")
        self.processor = {**self.info.processor, "augment": {name: settings[name] for name in ("crop", "flip", "color", "hue", "grey")}}

    def arrays(self, found: Sequence[image.Picture], rng: Random | None) -> Arrays:
        """Pictures → what the network takes; with `rng` as random views."""
        arrays, _ = image.plugin.encode(found, self.processor, State(), rng)
        return arrays


def kind_of(material: Material) -> tuple[str, Any]:
    """Which kind of pairs the data holds (texts, pairs, pictures, captions), and what such a Source is made of.

    Raises MainstemError where the columns hold anything else than one or two texts, a picture, or a picture and a text.
    """
    if not material.inputs and pictures.is_folder(material.data):
        return "pictures", pictures.of_folder(material.data)
    table = Texts(material.data, material.inputs, material.encoding, wanted=("text", "image"))
    for note in table.notes:
        material.say(note)
    held = pictures.holds_pictures(table)
    if len(held) > 2 or (len(held) == 2 and all(held)):
        raise MainstemError(
            f"a pair is of two texts or of a text and a picture, not of {' and '.join(map(repr, table.columns))}", do="Name two columns."
        )
    if any(held):
        return ("captions", table) if len(held) == 2 else ("pictures", pictures.of_table(table))
    family = Pairs if len(held) == 2 else Texts
    return ("pairs" if len(held) == 2 else "texts"), family(material.data, table.columns, material.encoding, material.rows)


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
