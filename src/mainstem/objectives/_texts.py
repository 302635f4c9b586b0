"""What objectives of texts share: a tokenizer, token files, and windows of them as batches. What they do with a window is their own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mainstem import registry
from mainstem.backbones._own import to_json
from mainstem.contracts import Array, Batch, Feature, Info, Material, Objective, Ref, State, Stream
from mainstem.data import tokens as token_files
from mainstem.data.texts import Texts
from mainstem.data.tokens import Recipe, Tokens
from mainstem.errors import MainstemError, suggest
from mainstem.objectives import _tokenizer

_TOLD = 1_000_000  # tokens between two notes


class TextObjective(Objective):
    """Learn from windows of tokens. A subclass says how texts are cut (`end`), and what `batch` makes of some windows."""

    reads = "text"
    defaults: ClassVar[Mapping[str, Any]] = {
        "length": 0,  # tokens of a window; 0: as many as the backbone takes by default
        "held_out": 0.02,  # share of the texts that is only looked at
        "looked_at": 512,  # windows of it, at most
    }
    title: ClassVar[str]
    suggested: ClassVar[str]  # a backbone that it suits
    begin = -1  # the token that is kept before each text; -1: none

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        for name, value in (settings or {}).items():
            if name not in self.defaults:
                raise MainstemError(f"the objective '{self.title}' has no setting '{name}'", do=suggest(name, self.defaults))
            if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
                raise MainstemError(f"{value!r} is no number from 0 up", where=f"settings.{name}")
        super().__init__({**self.defaults, **(settings or {})})

    @classmethod
    def training(cls, *, pretrained: bool) -> Mapping[str, Any]:
        """AdamW with a cosine, gentler where it goes on from weights."""
        suited = {"optimizer": "adamw", "weight_decay": 0.01, "betas": (0.9, 0.98), "clip": 1.0, "schedule": "cosine", "warmup": 0.06}
        suited |= {"batch_size": 32, "group_by_length": True, "precision": "auto"}
        return suited | ({"lr": 5e-5, "epochs": 3} if pretrained else {"lr": 5e-4, "epochs": 10})

    # what a subclass says

    def end(self, info: Info) -> int:
        """The token after each text where texts run on; -1 where a window is of one text."""
        return -1

    def build(self, plugin: Any, ref: Ref) -> Any:
        """The network that is trained. Raises MainstemError for a family that has no such."""
        raise TypeError(f"{type(self).__name__} builds no network")

    def batch(self, tokens: Tokens, indices: Array, rng: np.random.Generator | None) -> Batch:
        """Some windows as a batch; without `rng` always the same."""
        raise TypeError(f"{type(self).__name__} makes no batch")

    # what the engine asks

    def open(self, material: Material) -> None:
        """Read the tokenizer, or train one, and tokenise the texts; at once back where that is done."""
        if not material.data:
            raise MainstemError(f"the objective '{self.title}' learns from texts, and there are none", do="Give a file or a folder: DATA.")
        if material.backbone is None:
            raise MainstemError(
                f"the objective '{self.title}' does not know what to train",
                do=f"Name a backbone: --backbone {self.suggested}, or hf:FOLDER.",
            )
        self.plugin = registry.load("backbones", material.backbone.family).plugin
        self.texts = texts = Texts(material.data, material.inputs, material.encoding, material.rows)
        for note in texts.notes:
            material.say(note)
        asked = self.plugin.describe(material.backbone)
        if asked.modality != "text" or asked.processor.get("form") != "tokens":
            raise MainstemError(f"the backbone '{material.backbone.text}' reads no tokens", do=f"For example --backbone {self.suggested}.")
        data = _tokenizer.data(asked, texts, material, float(self.settings["held_out"]))
        self.tokenizer = _tokenizer.opened(data)
        state = State({"vocab_size": self.tokenizer.get_vocab_size()}, files={_tokenizer.FILE: data})
        self.ref = replace(material.backbone, state=state)
        self.info = self.plugin.describe(self.ref)
        self.pad = int(self.info.processor.get("pad", 0))
        self.check()
        folder = self._token_files(texts, hashlib.sha256(data).hexdigest(), material)
        self.train, self.looked_at = Tokens(folder, "train"), Tokens(folder, "held_out")
        material.say(f"to learn from: {token_files.summary(self.train.counts)}; held out: {token_files.summary(self.looked_at.counts)}")

    def _token_files(self, texts: Texts, tokenizer: str, material: Material) -> Path:
        """The folder of the texts as tokens, cut for this objective. `tokenizer`: its hash."""
        most = int(self.info.processor["max_length"])
        length = int(self.settings["length"]) or most
        if length - self.around() < 1:
            raise MainstemError(f"windows of {length} tokens hold no text", where="settings.length", do="Ask for more.")
        if length > most and not self.info.pretrained:
            raise MainstemError(
                f"windows of {length} tokens are too long for a backbone of {most}",
                where="settings.length",
                do=f"Build it for as many: --set backbone_settings.max_length={length}.",
            )
        recipe = Recipe(
            tokenizer=tokenizer,
            vocabulary=self.tokenizer.get_vocab_size(),
            length=length - self.around(),
            end=self.end(self.info),
            held_out=float(self.settings["held_out"]),
            sources=token_files.sources(texts),
            columns=list(texts.columns),
        )
        folder = material.folder / "tokens" / str(length)
        tokenise = partial(_tokenizer.tokenise, self.tokenizer, self.begin)
        token_files.write(texts, tokenise, folder, recipe, report=_teller(material.say), stopped=material.stopped)
        return folder

    def check(self) -> None:
        """Raise MainstemError where tokenizer and backbone do not do."""

    def around(self) -> int:
        """How many tokens a window has beside those of its text."""
        return 0

    def taken(self) -> float:
        """The share of the rows that were read."""
        return self.texts.taken()

    def stream(self, length: int) -> Stream:
        """The windows of the texts to learn from."""
        return Windows(self, self.train, length)

    def held_out(self) -> Stream:
        """Some windows of the texts held out, the same in every run."""
        return Looked(self, self.looked_at, int(self.settings["looked_at"]))

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"backbone": transformers' module with its head}. Raises MainstemError where windows are longer than it takes."""
        module = self.build(self.plugin, self.ref)
        length, places = int(self.settings["length"]), getattr(module.config, "max_position_embeddings", None)
        if places and length > places:
            raise MainstemError(
                f"windows of {length} tokens are too long for '{self.ref.text}', which takes {places}", where="settings.length"
            )
        return {"backbone": module}

    def figures(self, loss: float) -> dict[str, float]:
        """Perplexity of a token, and bits per byte of text: what a token costs, by how many tokens a byte of the held-out texts has."""
        counts = self.looked_at.counts
        return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": loss / math.log(2) * counts["tokens"] / counts["bytes"]}

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """The family's folder, with what transformers' AutoTokenizer reads."""
        saved = self.plugin.save(networks["backbone"], self.ref)
        made = {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in saved.items()}
        if not self.info.pretrained:
            made["tokenizer_config.json"] = to_json(self.tokenizer_config())
        return made

    def tokenizer_config(self) -> dict[str, Any]:
        """tokenizer_config.json of a tokenizer of our own."""
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": int(self.info.processor["max_length"])}


class Windows:
    """The windows to learn from, in passes; `length` batches lie between two looks at held-out ones."""

    def __init__(self, objective: TextObjective, tokens: Tokens, length: int) -> None:
        self.objective, self.tokens, self.length = objective, tokens, length
        self.rows: int | None = len(tokens)
        self.lengths: Any = tokens.lengths

    def __len__(self) -> int:
        return self.length

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """Some windows."""
        return self.objective.batch(self.tokens, indices, rng)


class Looked:
    """Held-out windows, at most so many, spread over all of them."""

    def __init__(self, objective: TextObjective, tokens: Tokens, most: int) -> None:
        self.objective, self.tokens = objective, tokens
        self.chosen = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), max(1, most))).round().astype(np.int64))
        self.rows: int | None = len(self.chosen)
        self.lengths: Any = tokens.lengths[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, indices: Array, rng: np.random.Generator | None = None) -> Batch:
        """Some windows, always the same for the same indices."""
        return self.objective.batch(self.tokens, self.chosen[indices], None)


def _teller(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says how far tokenising has come, now and then."""
    told = [0]

    def report(texts: int, tokens: int) -> None:
        if tokens >= told[0] + _TOLD:
            told[0] = tokens
            say(f"tokenised: {texts:,} texts, {tokens:,} tokens")

    return report
