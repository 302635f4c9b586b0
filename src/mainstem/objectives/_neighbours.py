"""What a text stands among: features of a backbone that does not learn, averaged over the texts that share most of its rarer words.

What chance put into the features of one text is not in the average, and what its neighbours agree on is. A backbone that is to find the
averages among those of other texts learns to tell that from one text alone (neighbours as positives: NNCLR, Dwibedi et al. 2021,
arXiv:2104.14548; likenesses to many as what is learned: SEED, Fang et al. 2021, arXiv:2101.04731). N texts, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files
from mainstem.contracts import Array, Material
from mainstem.data.tokens import Tokens

NEAREST = 32
AMONG = 50_000  # texts that neighbours are looked for among, spread over all of them
_KINDS = 1 << 20  # of tokens and of pairs that follow each other, told apart by a hash
_PAIR = 1_000_003
_CELLS = 1 << 23  # likenesses held at once
_ROWS = 32  # read at once

Parts = tuple[Tokens, Tokens]  # to learn from, and held out
Read = Callable[[list[Array]], Array]  # ids of some texts → their features, float32 [n, D]


def targets(parts: Parts, frozen: Callable[[], Read], path: Path, material: Material) -> tuple[Array, Array]:
    """The averages of the texts to learn from and of the held-out ones (float32 [N, D], rows of length 1), made once and kept in `path`.

    frozen: builds the backbone that reads. Raises KeyboardInterrupt once `material.stopped` says so.
    """
    if not path.is_file():
        material.say(f"first the features of {sum(map(len, parts)):,} texts are found, and for each of them the texts nearest by words")
        files.write_bytes(path, averages(parts, frozen(), material.stopped).astype("<f4").tobytes())
    found = np.fromfile(path, "<f4").reshape(sum(map(len, parts)), -1)
    return found[: len(parts[0])], found[len(parts[0]) :]


def averages(parts: Parts, read: Read, stopped: Callable[[], bool] = lambda: False) -> Array:
    """Of all texts, part after part (float32 [N, D]): its own features and the mean of those of its neighbours in the first part."""
    points = np.concatenate([_features(part, read, stopped) for part in parts])
    among = np.unique(np.linspace(0, len(parts[0]) - 1, min(AMONG, len(parts[0]))).round().astype(np.int64))
    words = _Words(_ids(parts[0], among))
    made, start = points.copy(), 0
    for number, part in enumerate(parts):
        size = max(1, _CELLS // len(among))
        for begin in range(0, len(part), size):
            if stopped():
                raise KeyboardInterrupt
            indices = np.arange(begin, min(begin + size, len(part)))
            like = words.likeness(_ids(part, indices))
            if number == 0:
                like[indices[:, None] == among[None]] = 0  # no text is its own neighbour
            nearest = np.argpartition(-like, min(NEAREST, len(among)) - 1, axis=1)[:, :NEAREST]
            shares = np.take_along_axis(like, nearest, 1) > 0
            sums = np.einsum("nk,nkd->nd", shares.astype(np.float32), points[among[nearest]])
            made[start + indices] += sums / np.maximum(shares.sum(1, keepdims=True), 1)
        start += len(part)
    return _on_sphere(made)


class _Words:
    """Some texts as sparse weights of their tokens and of pairs of these, by which others are compared with them (tf-idf)."""

    def __init__(self, ids: list[Array]) -> None:
        from sklearn.feature_extraction.text import TfidfTransformer

        counts = _counts(ids)
        self.weigh = TfidfTransformer(sublinear_tf=True).fit(counts)
        self.known = self.weigh.transform(counts).T.tocsr()

    def likeness(self, ids: list[Array]) -> Array:
        """Cosines of these texts with the known ones, float32 [rows, known]."""
        told: Array = (self.weigh.transform(_counts(ids)) @ self.known).toarray()
        return told


def _counts(ids: list[Array]) -> Any:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    kinds = [np.concatenate([one, one[:-1] * _PAIR ^ one[1:]]) % _KINDS for one in ids]
    ends = np.cumsum([0, *map(len, kinds)])
    made = csr_matrix((np.ones(ends[-1], np.float32), np.concatenate(kinds), ends), (len(ids), _KINDS))
    made.sum_duplicates()
    return made


def _features(part: Tokens, read: Read, stopped: Callable[[], bool]) -> Array:
    made = []
    order = np.argsort(part.lengths[np.arange(len(part))], kind="stable")
    for begin in range(0, len(part), _ROWS):
        if stopped():
            raise KeyboardInterrupt
        made.append(read(_ids(part, order[begin : begin + _ROWS])))
    return _on_sphere(np.concatenate(made)[np.argsort(order)])


def _ids(part: Tokens, indices: Array) -> list[Array]:
    return [ids for ids, _ in part.take(indices)]


def _on_sphere(points: Array) -> Array:
    made: Array = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    return made
