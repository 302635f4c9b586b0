"""`generation`: texts that go on where a prompt ends, by a causal language model."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from mainstem.contracts import Array, Batch, Call, Emit, Example, GraphSpec, Kept, Port, Prediction, Runner, State, Task
from mainstem.errors import MainstemError, suggest
from mainstem.modalities.text import padded
from mainstem.modalities.text import plugin as text
from mainstem.tasks import _completions
from mainstem.tasks._sampling import Sampling
from mainstem.tasks._writing import Writer

MOST_TOKENS = 8192  # of the texts that are written or judged at a time: their cache is what takes memory
MOST_LOGITS = 1 << 25  # numbers of one product with the vocabulary
CONTEXT = 4  # tokens of the prompt that the first new ones are decoded with: how a word begins depends on them

Coroutine = Generator[Call | tuple[Call, ...] | Emit, Any, list[Prediction | MainstemError]]


class Generation(Task):
    """Next-token prediction over whole documents, or over completions alone where there is a column of them.

    Settings: separator, what stands between prompt and completion. State: how often each token was learned from.
    """

    target, continues = "text", True
    backbones, processors = {"text": "gpt"}, {"target": {"form": "plain"}}
    adapt = "lora"
    metrics = ("bits_per_byte", "perplexity")
    compared_by = ("bits_per_byte", -1)
    options: ClassVar[Mapping[str, Any]] = {each.name: [] if each.name == "stop" else each.default for each in fields(Sampling)}
    routes = (_completions.route,)
    replayed: ClassVar[Mapping[str, Any]] = {"min_tokens": 8}  # golden documents are whole: what follows them is their end

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        known = {"separator": "\n"}
        for name, value in (settings or {}).items():
            if name not in known:
                raise MainstemError(f"unknown setting '{name}'", where="settings of the task 'generation'", do=suggest(name, known))
            if not isinstance(value, str):
                raise MainstemError(f"'{name}' is a text, not {value!r}", where="settings of the task 'generation'")
        super().__init__({**known, **(settings or {})})

    def encode(self, examples: Sequence[Example], processors: Any, rng: np.random.Generator | None = None) -> Batch:
        """Examples → token ids of the whole text: the prompt, and the completion behind it where it is known.

        target: "start", the first token that is to be learned; "bytes", how many the text behind it has, both int64 [n].
        """
        each = _written_by(processors.inputs)
        answered = bool(processors.target_settings)  # there is a column of completions
        settings = {**each.processor, "max_length": 0}
        prompts = [(e.values[each.columns[0]] or "") + self.settings["separator"] * answered for e in examples]
        begun = text.tokens(prompts, settings, each.state)
        completions = [e.answer or "" for e in examples]
        ended = text.tokens(completions, {**settings, "prefix": ""}, each.state)
        rows = [[*prompt, *completion[1:]] for prompt, completion in zip(begun, ended, strict=True)]
        judged = zip(begun, completions if answered else prompts, strict=True)
        facts = [(len(prompt) if answered else 1, len(written.encode())) for prompt, written in judged]
        start, size = np.array(facts, np.int64).reshape(-1, 2).T
        arrays = padded(rows, each.processor["pad"])
        return Batch(
            {each.name: arrays}, np.arange(len(rows)), len(rows), (each.name,), {"start": start, "bytes": size}, meta={"input": each}
        )

    # learning

    def networks(self, features: Mapping[str, Any], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """None of its own: the language model's head belongs to the backbone."""
        return {}

    def step(self, networks: Mapping[str, Any], batch: Any, optimisers: Mapping[str, Any], rng: np.random.Generator) -> dict[str, float]:
        """One step; of a text longer than the model reads, on a window drawn anew each time."""
        return {"loss": optimisers["main"].step(lambda: self.loss(self._likelihood(networks, batch, rng), batch))}

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """Nats and tokens of each text [row], all windows of it."""
        return self._likelihood(networks, batch, None)

    def _likelihood(self, networks: Mapping[str, Any], batch: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        from mainstem.nn import decoder

        [(name, arrays)] = batch.by_backbone()
        net = networks[f"backbone.{name}"]
        processor = net.info.processor
        ids, learned = decoder.ended(arrays["ids"], arrays["mask"], batch.target["start"], processor["end"][0])
        longest = processor["max_length"]
        windows = decoder.windows(ids, learned, longest) if rng is None else [decoder.drawn(ids, learned, longest, rng)]
        found = [decoder.likelihood(net.module, *window) for window in windows]
        return {"nats": sum(nats for nats, _ in found), "tokens": sum(tokens for _, tokens in found)}

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Nats a token."""
        return output["nats"].sum() / output["tokens"].sum().clamp(min=1)

    def size(self, batch: Any) -> float:
        """How many tokens are learned, where no text is longer than the model reads."""
        [(_, arrays)] = batch.by_backbone()
        return float(arrays["mask"].sum() + len(arrays["mask"]) - batch.target["start"].sum())

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """How often each token was learned from, int64 [vocabulary]: the unigram model that figures are held against."""
        counts = np.zeros(0, np.int64)
        for batch in batches:
            [(_, arrays)] = batch.by_backbone()
            learned = (arrays["mask"] > 0) & (np.arange(arrays["ids"].shape[1]) >= batch.target["start"][:, None])
            added = np.bincount(arrays["ids"][learned], minlength=max(len(counts), batch.meta["input"].state.json["vocab_size"]))
            counts = added + np.pad(counts, (0, len(added) - len(counts)))
        return State({}, {"counts": counts})

    def graphs(self, networks: Mapping[str, Any], specs: Mapping[str, GraphSpec], state: State) -> dict[str, GraphSpec]:
        """One graph, `decoder`, with its cache: see nn/decoder.py."""
        from mainstem.nn.decoder import Decoder

        [net] = networks.values()
        module = Decoder(net.module)
        return {"decoder": GraphSpec(*_ports(module.sizes(), net.module.config.vocab_size, net.info.processor["pad"]), module)}

    # answering

    def predict(self, batch: Batch, state: State, options: Mapping[str, Any], rngs: Sequence[np.random.Generator]) -> Coroutine:
        """Go on with every text; an Emit for each stretch of text that is final."""
        sampling = Sampling.of(options)
        each = batch.meta["input"]
        prompts, longest = _rows(batch), each.processor["max_length"]
        room = longest - sampling.max_tokens
        if room < 1:
            raise MainstemError(
                f"max_tokens is {sampling.max_tokens}, and the model reads {longest} tokens, prompt and answer together",
                do="Ask for fewer.",
            )
        texts = [_Text(i, prompt, room, each, sampling, rng) for i, (prompt, rng) in enumerate(zip(prompts, rngs, strict=True))]
        for part in _parts([len(one.prompt) + sampling.max_tokens for one in texts], MOST_TOKENS):
            yield from _write(texts[part], sampling, each)
        return [one.prediction() for one in texts]

    def judge(self, batch: Batch, state: State, rngs: Sequence[np.random.Generator]) -> Coroutine:
        """How likely each text is: `more` has nats, those by the unigram model ("baseline"), tokens and bytes."""
        each = batch.meta["input"]
        counts = state.arrays["counts"]
        unigram = np.log(counts.sum() + len(counts)) - np.log(counts + 1.0)
        windows = _windows(_rows(batch), batch.target["start"], each.processor["max_length"])
        sums = np.zeros((batch.examples, 3))
        widest = MOST_LOGITS // len(counts)
        for part in _parts([len(window.ids) for window in windows], min(MOST_TOKENS, widest)):
            chosen = windows[part]
            named = padded([window.named for window in chosen])
            asked = {"at": padded([window.at for window in chosen])["ids"], "named": named["ids"]}
            answer = yield Call("decoder", {**padded([w.ids for w in chosen], each.processor["pad"]), **asked}, outputs=("nats",))
            for window, nats in zip(chosen, np.asarray(answer["nats"], np.float64), strict=True):
                sums[window.row] += nats[: len(window.named)].sum(), unigram[window.named].sum(), len(window.named)
        return [
            Prediction(None, more={"nats": nats, "baseline": baseline, "tokens": int(tokens), "bytes": int(size)})
            for (nats, baseline, tokens), size in zip(sums.tolist(), batch.target["bytes"], strict=True)
        ]


def _written_by(inputs: Sequence[Any]) -> Any:
    """The one input. Raises MainstemError where more than one backbone is to read it, or one that cannot write."""
    if len(inputs) > 1:
        raise MainstemError(f"one backbone writes a text, and {len(inputs)} are named", do="Train each in a run of its own.")
    if "end" not in inputs[0].processor:
        raise MainstemError(
            f"the backbone '{inputs[0].backbone}' reads texts and cannot write them",
            do="Take a causal language model: --backbone gpt, or hf:FOLDER of one.",
        )
    return inputs[0]


def _rows(batch: Batch) -> list[list[int]]:
    """The token ids of each text."""
    [(_, arrays)] = batch.by_backbone()
    return [ids[mask > 0].tolist() for ids, mask in zip(arrays["ids"], arrays["mask"], strict=True)]


def _parts(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours that take at most `most` together, padded to the longest of them; one alone may take more."""
    start, longest = 0, 0
    for i, size in enumerate(sizes):
        longest = max(longest, size)
        if i > start and longest * (i + 1 - start) > most:
            yield slice(start, i)
            start, longest = i, size
    if start < len(sizes):
        yield slice(start, len(sizes))


def _ports(sizes: Sequence[tuple[int, int, int]], vocabulary: int, pad: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Both sides of the decoder's graph. sizes: by layer, heads of the cache and channels of a key and a value."""

    def cache(axis: str, **more: Any) -> list[Port]:
        parts = [(i, heads, *part) for i, (heads, key, value) in enumerate(sizes) for part in (("key", key), ("value", value))]
        held = [Port(f"past.{i}.{name}", "float32", ("row", str(heads), axis, str(width)), **more) for i, heads, name, width in parts]
        return [Port("past.mask", "int64", ("row", axis), **more), *held]

    taken = [
        Port("ids", "int64", ("row", "pad:tokens"), pad=pad),
        Port("mask", "int64", ("row", "pad:tokens")),
        Port("at", "int64", ("row", "pad:asked")),
        Port("named", "int64", ("row", "pad:named"), optional=True),
        *cache("pad:past", optional=True),
    ]
    given = [
        Port("logits", "float32", ("row", "pad:asked", str(vocabulary))),
        Port("nats", "float32", ("row", "pad:named")),
        *cache("pad:past+tokens"),
    ]
    return tuple(taken), tuple(given)


# --- writing ------------------------------------------------------------------------------------------------------------


class _Text:
    """One text that is being written."""

    def __init__(self, row: int, prompt: list[int], room: int, each: Any, sampling: Sampling, rng: np.random.Generator) -> None:
        self.row, self.sampling = row, sampling
        self.prompt, self.cut = prompt[-room:], max(0, len(prompt) - room)
        self.rng = np.random.default_rng((int(rng.integers(2**63)), sampling.seed))
        self.writer = Writer(lambda ids: text.untokenize(ids, each.processor, each.state), self.prompt[-CONTEXT:], sampling.stop)
        self.seen = np.zeros(0, bool)
        self.margin, self.finish, self.failed = np.inf, "", False

    def take(self, logits: Array, ends: list[int]) -> str:
        """Choose the next token by `logits` [vocabulary]; returns the text that is final now."""
        if not np.isfinite(logits.max()):
            self.failed, self.finish = True, "error"
            return ""
        if not len(self.seen):
            self.seen = np.zeros(len(logits), bool)
            self.seen[self.prompt] = True
        if len(self.writer.tokens) < self.sampling.min_tokens:
            logits = logits.copy()
            logits[ends] = -np.inf
        token, lead = self.sampling.choose(logits, self.seen, self.rng)
        self.seen[token], self.margin = True, min(self.margin, lead)
        if token in ends:
            self.finish = "stop"
            return self.writer.end()
        told = self.writer.add(token)
        self.finish = "stop" if self.writer.stopped else "length" if len(self.writer.tokens) >= self.sampling.max_tokens else ""
        return told + self.writer.end() if self.finish else told

    def prediction(self) -> Prediction | MainstemError:
        """The answer: `more` says why it ended ("stop", "length"), and of how many tokens it and its prompt are."""
        if self.failed:
            return MainstemError("the model's output is not a number", do="Look for what is unusual in this row.")
        more = {"finish": self.finish, "tokens": len(self.writer.tokens), "prompt_tokens": len(self.prompt)}
        return Prediction(self.writer.text, more={**more, **({"cut": self.cut} if self.cut else {})}, margin=self.margin)


def _write(texts: Sequence[_Text], sampling: Sampling, each: Any) -> Generator[Any, Any, None]:
    """Write these texts together; those that have ended leave the batch."""
    ends, kept = each.processor["end"], ("past",)
    inputs: dict[str, Array | Kept] = {**padded([one.prompt for one in texts], each.processor["pad"])}
    inputs["at"] = np.array([[len(one.prompt) - 1] for one in texts])
    while texts:
        answer = yield Call("decoder", inputs, outputs=("logits",), keep=kept)
        for one, logits in zip(texts, answer["logits"][:, 0], strict=True):
            if told := one.take(logits, ends):
                yield Emit(one.row, told)
        going = np.array([i for i, one in enumerate(texts) if not one.finish], np.int64)
        past = answer["past"] if len(going) == len(texts) else answer["past"].take(going)
        texts = [texts[i] for i in going]
        last = np.array([[one.writer.tokens[-1]] for one in texts], np.int64).reshape(-1, 1)
        inputs = {"ids": last, "mask": np.ones_like(last), "at": np.zeros_like(last), "past": past}


# --- judging ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """A stretch of a text that the model reads at once: its tokens, and the places and tokens that follow and are judged."""

    row: int
    ids: list[int]
    at: list[int]
    named: list[int]


def _windows(rows: Sequence[list[int]], starts: Array, longest: int) -> list[_Window]:
    """Every token from `starts` on in one window of at most `longest` tokens, which neighbour each other."""
    made = []
    for row, (ids, start) in enumerate(zip(rows, starts.tolist(), strict=True)):
        for first in range(0, len(ids) - 1, longest):
            read = ids[first : first + longest]
            at = [i for i in range(len(read)) if start <= first + i + 1 < len(ids)]
            if at:
                made.append(_Window(row, read, at, [ids[first + i + 1] for i in at]))
    return made


plugin = Generation
