"""Smaller tree ensembles cut out of a graph: fewer trees, shallower trees, cheap branches cut.

No training: the first trees of a forest are the forest that fewer trees would have made, the first
stages of a boosted ensemble the one that fewer stages would have. A branch that is cut answers the
mean of what it answered on training rows. Whether a smaller ensemble is good enough is measured,
like everything else, on held-out rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from converters.graph import ML_DOMAIN, parse_model
from converters.normalise import normalise
from converters.runtime import GraphRunner, watch_tensors
from converters.shrink_trees import shrink_trees
from converters.tree_arrays import (
    Trees,
    find_alive,
    read_trees,
    weigh_subtrees,
    write_trees,
)
from device_profiles.profile import DeviceProfile

Array = NDArray[Any]
ROWS_MAX = 2_048
_KINDS = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
Cut = Callable[[float], bytes]


def list_tree_cuts(fp32: bytes, rows: Array, profile: DeviceProfile) -> dict[str, Cut]:
    """Give the ways to make a graph of trees smaller, by name; each takes the share to keep.

    Args:
        fp32: Normalised bytes.
        rows: Training rows, float32 [N, width].
        profile: Bounds of the results.
    """
    model = parse_model(fp32, what="the fp32 graph")
    places = [
        place
        for place, node in enumerate(model.graph.node)
        if node.domain == ML_DOMAIN and node.op_type in _KINDS
    ]
    if not places:
        return {}
    asked = rows[:ROWS_MAX]
    nodes = [model.graph.node[place] for place in places]
    try:
        ensembles = [read_trees(node) for node in nodes]
    except ValueError:
        return {}
    read = [node.input[0] for node in nodes]
    wide = [name for name, trees in zip(read, ensembles, strict=True) if trees.is_wide]
    seen = watch_tensors(model, read, asked, profile, wide=wide)
    work = _Work(model, places, ensembles, seen, asked, profile)
    cuts: dict[str, Cut] = {}
    if max(trees.count for trees in ensembles) > 1:
        cuts["fewer_trees"] = work.keep_trees
    if max(int(trees.depth.max()) for trees in ensembles) > 1:
        cuts["pruned_trees"] = work.prune
        cuts["shallower_trees"] = work.cut_depth
    return cuts


class _Work:
    """The ensembles of one graph."""

    def __init__(
        self,
        model: ModelProto,
        places: list[int],
        ensembles: list[Trees],
        seen: list[Array],
        rows: Array,
        profile: DeviceProfile,
    ) -> None:
        self._model, self._places, self._ensembles = model, places, ensembles
        self._seen, self._rows, self._profile = seen, rows, profile

    def keep_trees(self, share: float) -> bytes:
        """Keep the first trees; votes are weighted again.

        A regression that says neither is taken for what comes nearer to the whole ensemble.
        """
        truth = self._answer(self._finish(self._copy()[0]))
        best, error = b"", np.inf
        for is_mean in (False, True):
            model, nodes = self._copy()
            for node, trees in zip(nodes, self._ensembles, strict=True):
                kept = find_first_stages(trees, share)
                is_vote = is_mean and not _is_sum(trees)
                scale = trees.count / len(kept) if is_vote else 1.0
                write_trees(
                    node, trees, kept=kept, cut=np.zeros(len(trees.tree), bool), scale=scale
                )
            content = self._finish(model)
            distance = float(np.mean(np.abs(self._answer(content) - truth)))
            if distance < error:
                best, error = content, distance
        return best

    def prune(self, share: float) -> bytes:
        """Cut the branches whose answers differ least for the leaves they cost."""
        weighed = [weigh_subtrees(t, r) for t, r in zip(self._ensembles, self._seen, strict=True)]
        costs = [w.loss / np.maximum(w.leaves - 1, 1) for w in weighed]
        levels = np.unique(
            np.concatenate([c[~t.is_leaf] for c, t in zip(costs, self._ensembles, strict=True)])
        )
        wanted = share * sum(int(t.is_leaf.sum()) for t in self._ensembles)
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            cuts = [c <= levels[middle] for c in costs]
            if sum(map(_count_leaves, self._ensembles, cuts)) <= wanted:
                high = middle
            else:
                low = middle + 1
        return self._cut([(c <= levels[low]) for c in costs], [w.mean for w in weighed])

    def cut_depth(self, share: float) -> bytes:
        """Cut every tree at a share of the greatest depth."""
        deepest = max(int(t.depth.max()) for t in self._ensembles)
        depth = max(1, round(share * deepest))
        weighed = [weigh_subtrees(t, r) for t, r in zip(self._ensembles, self._seen, strict=True)]
        return self._cut([t.depth >= depth for t in self._ensembles], [w.mean for w in weighed])

    def _cut(self, cuts: list[Array], means: list[Array]) -> bytes:
        model, nodes = self._copy()
        for node, trees, cut, mean in zip(nodes, self._ensembles, cuts, means, strict=True):
            write_trees(
                node, trees, kept=np.arange(trees.count), cut=cut & ~trees.is_leaf, mean=mean
            )
        return self._finish(model)

    def _copy(self) -> tuple[ModelProto, list[NodeProto]]:
        model = ModelProto()
        model.CopyFrom(self._model)
        return model, [model.graph.node[place] for place in self._places]

    def _finish(self, model: ModelProto) -> bytes:
        shrink_trees(model)
        return normalise(model, self._profile)

    def _answer(self, content: bytes) -> Array:
        outputs = GraphRunner(content, self._profile).run(self._rows)
        name = "probabilities" if "probabilities" in outputs else "value"
        return outputs[name].astype(np.float64)


def find_first_stages(trees: Trees, share: float) -> Array:
    """Give the numbers of the trees of the first stages.

    A boosted ensemble of several classes has a tree a class in every stage: each adds to one
    answer alone. Other ensembles have a tree a stage.
    """
    owners = np.zeros(trees.count, np.int64)
    if _is_by_class(trees):
        places, columns = np.nonzero(trees.weights)
        owners[trees.tree[places]] = columns
    stage = np.zeros(trees.count, np.int64)
    for owner in np.unique(owners):
        mine = owners == owner
        stage[mine] = np.arange(int(mine.sum()))
    stages = int(stage.max()) + 1
    kept: Array = np.flatnonzero(stage < max(1, round(share * stages)))
    return kept


def _count_leaves(trees: Trees, cut: Array) -> int:
    """Count the leaves that are left when subtrees become leaves."""
    alive = find_alive(trees, np.arange(trees.count), cut)
    return int(np.sum(alive & (trees.is_leaf | cut)))


def _is_sum(trees: Trees) -> bool:
    """Tell whether the trees are stages to add up, not votes to average."""
    has_start = bool(trees.attributes.get("base_values"))
    is_raw = trees.attributes.get("post_transform", b"NONE") == b"NONE"
    return has_start or not is_raw or _is_by_class(trees)


def _is_by_class(trees: Trees) -> bool:
    """Tell whether each tree adds to one of several answers."""
    touched = np.zeros((trees.count, len(trees.ids)), bool)
    np.logical_or.at(touched, trees.tree, trees.weights != 0)
    return len(trees.ids) > 1 and bool(np.all(touched.sum(axis=1) <= 1))
