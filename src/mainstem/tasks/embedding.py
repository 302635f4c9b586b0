"""`embedding`: the features of a backbone as they are, pooled as heads take them, of length 1: for search, clusters, duplicates.

Nothing is trained for it: `mainstem export BACKBONE -o MODEL` seals a backbone alone, and so `serve` can share it with every task on it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mainstem.contracts import Array, Batch, Call, Emit, Feature, Params, Prediction, Route, Runner, State, Task
from mainstem.errors import MainstemError
from mainstem.tasks import _embeddings

_UNTRAINED = MainstemError("an embedding is not trained", do="Seal a backbone as it is: mainstem export BACKBONE -o MODEL.")


class Embedding(Task):
    """A vector an example. Setting: normalize, whether its length is 1 (as cosine similarity wants it); a request may set it as well.

    Of several inputs the vectors stand side by side, in the order of the inputs.
    """

    target = None
    options: ClassVar[Mapping[str, Any]] = {"normalize": True}
    routes: ClassVar[tuple[Route, ...]] = (_embeddings.route,)
    tolerance = 1e-3  # of a coordinate

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__({"normalize": True, **(settings or {})})
        where = "settings of the task 'embedding'"
        if unknown := [name for name in self.settings if name != "normalize"]:
            raise MainstemError(f"unknown setting '{unknown[0]}'", where=where, do="Known: normalize.")
        if not isinstance(self.settings["normalize"], bool):
            raise MainstemError(f"'normalize' is true or false, not {self.settings['normalize']!r}", where=where)

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """None beside the backbones. Raises MainstemError where a backbone gives no vector a row."""
        if wrong := [name for name, feature in features.items() if feature.axes != ("row",)]:
            raise MainstemError(f"the feature {wrong[0]} is not one vector a row")
        return {}

    def parameters(self, networks: Mapping[str, Any]) -> dict[str, Params]:
        """Raises MainstemError: there is nothing to train."""
        raise _UNTRAINED

    def fit_state(self, batches: Iterator[Batch], target: State, runner: Runner | None) -> State:
        """Raises MainstemError: there is nothing to fit."""
        raise _UNTRAINED

    def predict(
        self, batch: Batch, state: State, options: Mapping[str, Any], rngs: Sequence[np.random.Generator]
    ) -> Generator[Call | tuple[Call, ...] | Emit, Any, list[Prediction | MainstemError]]:
        """All backbones at once; their vectors [row, width] side by side."""
        answers = yield tuple(Call(f"backbone.{name}", arrays) for name, arrays in batch.by_backbone())
        vectors = np.concatenate([np.asarray(next(iter(answer.values())), np.float64) for answer in answers], axis=1)
        if self.settings["normalize"] and options.get("normalize", True):
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return [
            Prediction(vector, more={"tokens": tokens})
            if finite
            else MainstemError("the model's output is not a number", do="Look for extreme values in this row.")
            for vector, tokens, finite in zip(
                vectors.astype(np.float32).tolist(), _tokens(batch).tolist(), np.isfinite(vectors).all(axis=1).tolist(), strict=True
            )
        ]


def _tokens(batch: Batch) -> Array:
    """How many tokens of text were read, by example."""
    masks = [np.asarray(arrays["mask"]).sum(axis=1) for _, arrays in batch.by_backbone() if "mask" in arrays]
    return np.asarray(sum(masks, np.zeros(batch.examples, np.int64)))


plugin = Embedding
