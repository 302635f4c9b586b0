"""The next token from logits: greedy, or drawn by temperature, top-k and top-p, with a penalty on repetition; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mainstem.contracts import Array
from mainstem.errors import MainstemError

STOPS, STOP_LENGTH = 16, 200  # texts, and characters of each: they are looked for at every token
NEAR = 1024  # likeliest tokens that usually hold the share that top_p asks for: sorting all takes milliseconds


@dataclass(frozen=True)
class Sampling:
    """What a request may set.

    max_tokens; min_tokens: before these an answer does not end by itself. temperature: 0 is greedy. top_k: of so many
    likeliest tokens (0: all). top_p: of the fewest that hold this share (nucleus sampling, Holtzman et al. 2019,
    arXiv:1904.09751). repetition_penalty: logits of tokens that were there already are divided by it where they are above 0
    and multiplied below (Keskar et al. 2019, arXiv:1909.05858). stop: texts that end an answer, which ends before them.
    seed: of the draws, beside the row itself.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Sampling:
        """From a request's options. Raises MainstemError that names every one out of range."""
        made = cls(**{each.name: options[each.name] for each in fields(cls)})
        made = cls(**{**vars(made), "stop": (made.stop,) if isinstance(made.stop, str) else tuple(made.stop)})
        ranges = {
            "max_tokens": (made.max_tokens >= 1, "a whole number from 1 on"),
            "min_tokens": (0 <= made.min_tokens <= made.max_tokens, "a whole number from 0 to max_tokens"),
            "temperature": (0 <= made.temperature < float("inf"), "a number from 0 on"),
            "top_k": (made.top_k >= 0, "a whole number from 0 on (0: all tokens)"),
            "top_p": (0 < made.top_p <= 1, "a number above 0, at most 1"),
            "repetition_penalty": (0 < made.repetition_penalty < float("inf"), "a number above 0"),
            "stop": (_are_stops(made.stop), f"at most {STOPS} texts of 1 to {STOP_LENGTH} characters"),
            "seed": (made.seed >= 0, "a whole number from 0 on"),
        }
        wrong = [f"'{name}' is {allowed}, not {options[name]!r}" for name, (good, allowed) in ranges.items() if not good]
        if wrong:
            raise MainstemError("; ".join(wrong), where="options")
        return made

    def choose(self, logits: Array, seen: Array, rng: np.random.Generator) -> tuple[int, float]:
        """Logits [vocabulary] → the next token, and by how much a greedy choice leads the second (infinite where drawn).

        seen: bool [vocabulary], the tokens of the prompt and of what was written.
        """
        logits = np.asarray(logits, np.float64)
        if self.repetition_penalty != 1:
            penalised = np.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = np.where(seen, penalised, logits)
        if not self.temperature:
            best = int(logits.argmax())
            others = max(logits[:best].max(initial=-np.inf), logits[best + 1 :].max(initial=-np.inf))
            return best, float(logits[best] - others)
        tokens, shares = self._shares(logits / self.temperature)
        return int(tokens[min(np.searchsorted(np.cumsum(shares), rng.random() * shares.sum(), "right"), len(tokens) - 1)]), np.inf

    def _shares(self, logits: Array) -> tuple[Array, Array]:
        """The tokens that may be drawn, and their probabilities up to a common factor."""
        tokens = np.arange(len(logits))
        if 0 < self.top_k < len(logits):
            tokens = np.sort(np.argpartition(-logits, self.top_k - 1)[: self.top_k])
        shares = np.exp(logits[tokens] - logits[tokens].max())
        if self.top_p == 1:
            return tokens, shares
        wanted = self.top_p * shares.sum()
        for most in (NEAR, len(tokens)):
            near = np.argpartition(-shares, most - 1)[:most] if most < len(tokens) else np.arange(len(tokens))
            near = near[np.lexsort((near, -shares[near]))]
            held = np.cumsum(shares[near])
            if held[-1] >= wanted or len(near) == len(tokens):
                break
        kept = near[: int(np.searchsorted(held, wanted)) + 1]
        return tokens[kept], shares[kept]


def _are_stops(texts: Sequence[Any]) -> bool:
    return len(texts) <= STOPS and all(isinstance(text, str) and 0 < len(text) <= STOP_LENGTH for text in texts)
