"""Decision trees as flat arrays: from scikit-learn's fitted trees, run in numpy, written as one ONNX node.

Letters of shapes: n rows, F columns, N nodes, T trees, k outputs, w values a leaf (1, or k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mainstem.contracts import Array, Arrays

_CHUNK = 1 << 20  # row-and-tree pairs that are walked at once


@dataclass(frozen=True)
class Forest:
    """Sum over trees of the value of the leaf that a row falls into: left where x <= threshold, or x is NaN and `missing` says so.

    A leaf is its own child. `value` [N, w] goes to the outputs `column` … `column` + w - 1 of its tree.
    """

    feature: Array  # int32 [N]
    threshold: Array  # float64 [N]
    left: Array  # int32 [N]
    right: Array  # int32 [N]
    missing: Array  # bool [N]: NaN goes left
    value: Array  # float64 [N, w]
    root: Array  # int32 [T]
    column: Array  # int32 [T]

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for a State."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, arrays: Arrays) -> Forest:
        """The forest whose `arrays` lie in a State."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})

    def run(self, x: Array, outputs: int) -> Array:
        """float64 [n, F] → float64 [n, outputs]."""
        result = np.zeros((len(x), outputs))
        step = max(1, _CHUNK // max(1, len(self.root)))
        for start in range(0, len(x), step):
            leaves = self._leaves(x[start : start + step])
            for tree, column in enumerate(self.column):
                result[start : start + step, column : column + self.value.shape[1]] += self.value[leaves[:, tree]]
        return result

    def _leaves(self, x: Array) -> Array:
        """Node numbers [n, T] of the leaves that the rows fall into."""
        flat, start = np.ascontiguousarray(x).ravel(), np.arange(len(x))[:, None] * x.shape[1]
        feature, gaps = self.feature.astype(np.intp), bool(np.isnan(flat).any())
        below = np.column_stack([self.right, self.left]).astype(np.intp).ravel()
        node = np.tile(self.root.astype(np.intp), (len(x), 1))
        while True:
            seen = flat[start + feature[node]]
            left = seen <= self.threshold[node]
            if gaps:
                left |= np.isnan(seen) & self.missing[node]
            child = below[2 * node + left]
            if np.array_equal(child, node):
                return node
            node = child


def join(forests: Sequence[Forest], shares: Sequence[float]) -> Forest:
    """One forest whose answer is the sum of theirs, each multiplied by its share."""
    starts = np.cumsum([0, *(len(f.feature) for f in forests)])
    moved = [
        replace(f, left=f.left + s, right=f.right + s, root=f.root + s, value=f.value * share)
        for f, s, share in zip(forests, starts[:-1], shares, strict=True)
    ]
    return Forest(**{f.name: _stack([getattr(m, f.name) for m in moved]) for f in fields(Forest)})


def _stack(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts).astype(parts[0].dtype)


def boosted(model: Any, first: int = 0) -> Forest:
    """The trees of a fitted HistGradientBoosting model; its baseline is not among them. `first`: the output of its first class."""
    trees = [_boosted_tree(tree.nodes, first + k) for stage in model._predictors for k, tree in enumerate(stage)]
    return join(trees, [1.0] * len(trees))


def _boosted_tree(nodes: Any, column: int) -> Forest:
    leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
    return Forest(
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
        left=np.where(leaf, own, nodes["left"]).astype(np.int32),
        right=np.where(leaf, own, nodes["right"]).astype(np.int32),
        missing=nodes["missing_go_to_left"].astype(bool) & ~leaf,
        value=np.where(leaf, nodes["value"], 0.0)[:, None],
        root=np.zeros(1, np.int32),
        column=np.full(1, column, np.int32),
    )


def averaged(model: Any) -> Forest:
    """The mean of the trees of a fitted forest regressor."""
    trees = [_plain_tree(estimator.tree_) for estimator in model.estimators_]
    return join(trees, [1.0 / len(trees)] * len(trees))


def _plain_tree(tree: Any) -> Forest:
    own = np.arange(tree.node_count)
    leaf = tree.children_left < 0
    return Forest(
        feature=np.where(leaf, 0, tree.feature).astype(np.int32),
        threshold=np.where(leaf, 0.0, _double(tree.threshold)),
        left=np.where(leaf, own, tree.children_left).astype(np.int32),
        right=np.where(leaf, own, tree.children_right).astype(np.int32),
        missing=tree.missing_go_to_left.astype(bool) & ~leaf,
        value=np.where(leaf[:, None], tree.value[:, :, 0], 0.0),
        root=np.zeros(1, np.int32),
        column=np.zeros(1, np.int32),
    )


def _double(threshold: Array) -> Array:
    """The largest float64 that rounds to a float32 <= threshold: scikit-learn's forests compare x in float32, we in float64."""
    with np.errstate(over="ignore"):
        low = threshold.astype(np.float32)
    low = np.where(low > threshold, np.nextafter(low, np.float32(-np.inf)), low)
    middle = (low.astype(np.float64) + np.nextafter(low, np.float32(np.inf)).astype(np.float64)) / 2
    to_even = low.view(np.int32) % 2 == 0  # a tie rounds to the even one
    return np.where(to_even, middle, np.nextafter(middle, -np.inf))


def node(forest: Forest, x: str, name: str, outputs: int) -> Any:
    """The ONNX node from `x` [n, F] float64 to `name` [n, outputs] float32: ai.onnx.ml TreeEnsembleRegressor with float64 inside."""
    from onnx import helper, numpy_helper

    own = np.arange(len(forest.feature))
    leaf, tree = forest.left == own, _trees_of(forest)
    within = own - forest.root[tree]  # numbers start anew in each tree
    part = np.arange(forest.value.shape[1])
    leaves, parts = (index.ravel() for index in np.meshgrid(own[leaf], part, indexing="ij"))
    return helper.make_node(
        "TreeEnsembleRegressor",
        [x],
        [name],
        domain="ai.onnx.ml",
        n_targets=outputs,
        nodes_treeids=tree.tolist(),
        nodes_nodeids=within.tolist(),
        nodes_featureids=forest.feature.tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_values_as_tensor=numpy_helper.from_array(forest.threshold, "thresholds"),
        nodes_truenodeids=np.where(leaf, 0, forest.left - forest.root[tree]).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, forest.right - forest.root[tree]).tolist(),
        nodes_missing_value_tracks_true=forest.missing.astype(int).tolist(),
        target_treeids=tree[leaves].tolist(),
        target_nodeids=within[leaves].tolist(),
        target_ids=(forest.column[tree[leaves]] + parts).tolist(),
        target_weights_as_tensor=numpy_helper.from_array(forest.value[leaves, parts], "weights"),
    )


def _trees_of(forest: Forest) -> Array:
    """The tree that each node belongs to, int [N]; a tree's nodes lie together, its root first."""
    return np.repeat(np.arange(len(forest.root)), np.diff([*forest.root, len(forest.feature)]))
