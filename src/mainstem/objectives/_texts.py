"""What objectives of texts share: a tokenizer, token files, and windows of them as batches. What they do with a window is their own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from mainstem import files, registry
from mainstem.backbones._own import to_json
from mainstem.contracts import Array, Batch, Feature, Info, Material, Objective, Ref, State, Stream
from mainstem.data import tokens as token_files
from mainstem.data.texts import Texts
from mainstem.data.tokens import Recipe, Tokens
from mainstem.errors import MainstemError, suggest
from mainstem.modalities import text as texts_modality

TOKENIZER = "tokenizer.json"
_TRAINED_ON = 100 << 20  # bytes of text that a tokenizer is trained on, at most about
_ASKED = 512  # rows between two questions whether to stop
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

    def marked(self, ids: Array, info: Info) -> Array:
        """The tokens of a text as they are kept."""
        return ids

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
        texts = Texts(material.data, material.inputs, material.encoding)
        for note in texts.notes:
            material.say(note)
        asked = self.plugin.describe(material.backbone)
        if asked.modality != "text" or asked.processor.get("form") != "tokens":
            raise MainstemError(f"the backbone '{material.backbone.text}' reads no tokens", do=f"For example --backbone {self.suggested}.")
        data = self._tokenizer_of(asked, texts, material)
        self.tokenizer = Tokenizer.from_str(data.decode())
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True
        state = State({"vocab_size": self.tokenizer.get_vocab_size()}, files={TOKENIZER: data})
        self.ref = replace(material.backbone, state=state)
        self.info = self.plugin.describe(self.ref)
        self.pad = int(self.info.processor.get("pad", 0))
        self.check()
        length = int(self.settings["length"]) or int(self.info.processor["max_length"])
        recipe = Recipe(
            tokenizer=hashlib.sha256(data).hexdigest(),
            vocabulary=self.tokenizer.get_vocab_size(),
            length=length - self.around(),
            end=self.end(self.info),
            held_out=float(self.settings["held_out"]),
            sources=token_files.sources(texts),
            columns=list(texts.columns),
        )
        if recipe.length < 1:
            raise MainstemError(f"windows of {length} tokens hold no text", where="settings.length", do="Ask for more.")
        folder = material.folder / "tokens" / str(length)
        token_files.write(texts, self.tokenise, folder, recipe, report=_teller(material.say), stopped=material.stopped)
        self.train, self.looked_at = Tokens(folder, "train"), Tokens(folder, "held_out")
        material.say(f"to learn from: {token_files.summary(self.train.counts)}; held out: {token_files.summary(self.looked_at.counts)}")

    def check(self) -> None:
        """Raise MainstemError where tokenizer and backbone do not do."""

    def around(self) -> int:
        """How many tokens a window has beside those of its text."""
        return 0

    def stream(self, length: int) -> Stream:
        """The windows of the texts to learn from."""
        return Windows(self, self.train, length)

    def held_out(self) -> Stream:
        """Some windows of the texts held out, the same in every run."""
        return Looked(self, self.looked_at, int(self.settings["looked_at"]))

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"backbone": transformers' module with its head}."""
        return {"backbone": self.build(self.plugin, self.ref)}

    def figures(self, loss: float) -> dict[str, float]:
        """Perplexity of a token, and bits per byte of text: what a token costs, by how many tokens a byte of the held-out texts has."""
        counts = self.looked_at.counts
        return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": loss / math.log(2) * counts["tokens"] / counts["bytes"]}

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """The family's folder, with what transformers' AutoTokenizer reads."""
        saved = self.plugin.save(networks["backbone"], self.ref)
        made = {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in saved.items()}
        if "tokenizer_config.json" not in made:
            made["tokenizer_config.json"] = to_json(self.tokenizer_config())
        return made

    def tokenizer_config(self) -> dict[str, Any]:
        """tokenizer_config.json of a tokenizer of our own."""
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": int(self.info.processor["max_length"])}

    # tokens

    def tokenise(self, texts: Sequence[str]) -> list[tuple[Array, Array]]:
        """Texts → their tokens (int64 [n]) and whether each begins a word."""
        made = []
        for text, encoding in zip(texts, self.tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
            ids, begins = np.array(encoding.ids, np.int64), begins_of(encoding, text)
            marked = self.marked(ids, self.info)
            made.append((marked, np.concatenate([np.ones(len(marked) - len(ids), bool), begins])))
        return made

    def _tokenizer_of(self, info: Info, texts: Texts, material: Material) -> bytes:
        """The bytes of the backbone's own tokenizer, or of one trained on the texts to learn from."""
        place = material.folder / TOKENIZER
        if "train" not in info.processor:
            state: State = texts_modality.plugin.fit(info.processor, [])
            return next(iter(state.files.values()))
        if not place.is_file():
            asked = info.processor["train"]
            material.say(f"training a tokenizer of {asked['vocab_size']:,} tokens")
            taught = self._taught(texts, material.stopped)
            files.write_bytes(place, texts_modality.train_tokenizer(taught, asked["vocab_size"], asked.get("end", "")))
        return place.read_bytes()

    def _taught(self, texts: Texts, stopped: Callable[[], bool]) -> Iterator[str]:
        """The texts that a tokenizer is trained on: of many, some of all files, chosen by their hash; none that is held out."""
        held_out = float(self.settings["held_out"])
        share = held_out + (1 - held_out) * min(1.0, _TRAINED_ON / max(1, texts.size()))
        for number, (_, _, row) in enumerate(texts.read()):
            if number % _ASKED == 0 and stopped():
                raise KeyboardInterrupt
            yield from (text for text in row if not token_files.is_held_out(text, held_out) and token_files.is_held_out(text, share))


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


def begins_of(encoding: Encoding, text: str) -> Array:
    """Whether each token begins a word: one that the tokenizer parts, or a character that is a word by itself (Chinese, Japanese)."""
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    begins = np.ones(len(words), bool)
    begins[1:] = words[1:] != words[:-1]
    if not text.isascii() and len(words):
        starts = np.array([start for start, _ in encoding.offsets], np.int64)
        alone = texts_modality.ideographs(text)[np.minimum(starts, len(text) - 1)]
        begins[1:] |= (starts[1:] != starts[:-1]) & (alone[1:] | alone[:-1])
    return begins


def special(tokenizer: Tokenizer) -> set[int]:
    """The ids of the tokenizer's special tokens."""
    return {int(number) for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def named(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    """The id of the first of these tokens that the tokenizer has."""
    return next((number for name in names if (number := tokenizer.token_to_id(name)) is not None), None)


def _teller(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says how far tokenising has come, now and then."""
    told = [0]

    def report(texts: int, tokens: int) -> None:
        if tokens >= told[0] + _TOLD:
            told[0] = tokens
            say(f"tokenised: {texts:,} texts, {tokens:,} tokens")

    return report
