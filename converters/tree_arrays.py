"""A tree ensemble node as arrays: which row meets which leaf, and what each subtree answers.

Reads the forms of ``ai.onnx.ml`` 1 to 3 (``TreeEnsembleClassifier``, ``TreeEnsembleRegressor``),
with thresholds of float32 or float64.
Writes back a subset of the trees with some subtrees turned into leaves; all else of the node stays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Array = NDArray[Any]
_IDS_MAX = 2**31
_LEAF = b"LEAF"
_COMPARE = {
    b"BRANCH_LEQ": np.less_equal,
    b"BRANCH_LT": np.less,
    b"BRANCH_GTE": np.greater_equal,
    b"BRANCH_GT": np.greater,
    b"BRANCH_EQ": np.equal,
    b"BRANCH_NEQ": np.not_equal,
}
_WIDE = "nodes_values_as_tensor"
_BLANKS = {
    "nodes_featureids": 0,
    "nodes_values": 0.0,
    _WIDE: 0.0,
    "nodes_modes": _LEAF,
    "nodes_missing_value_tracks_true": 0,
    "nodes_hitrates": 1.0,
}
"""What a leaf has in the place of a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """All nodes of all trees, each by its place in the file.

    Attributes:
        attributes: Of the node, by name.
        prefix: ``class`` or ``target``: what its weights are called.
        tree: Number of the tree, from 0 in order of appearance.
        yes: Place of the child taken when the comparison holds; itself for a leaf.
        no: Place of the other child.
        is_leaf: Which are leaves.
        depth: Distance from the root.
        weights: What a leaf adds to each answer [nodes, answers]; 0 for branches.
        ids: The answers that the columns of ``weights`` stand for.
    """

    attributes: dict[str, Any]
    prefix: str
    tree: Array
    yes: Array
    no: Array
    is_leaf: Array
    depth: Array
    weights: Array
    ids: Array

    @property
    def count(self) -> int:
        """How many trees there are."""
        return int(self.tree.max()) + 1

    @property
    def is_wide(self) -> bool:
        """Whether they compare float64."""
        return _WIDE in self.attributes


def read_trees(node: NodeProto) -> Trees:
    """Read a tree ensemble node.

    Raises:
        ValueError: It does not hang together, or holds its numbers in another form.
    """
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    prefix = "class" if node.op_type == "TreeEnsembleClassifier" else "target"
    if _WIDE in found:
        found[_WIDE] = numpy_helper.to_array(found[_WIDE]).tolist()
    elif "nodes_values" not in found:
        raise ValueError("a tree ensemble without nodes_values")
    try:
        numbers = np.array(found["nodes_treeids"], np.int64)
        keys = numbers * _IDS_MAX + np.array(found["nodes_nodeids"], np.int64)
        is_leaf = np.array([mode == _LEAF for mode in found["nodes_modes"]])
        yes, no = (
            _find_places(keys, numbers, np.array(found[name], np.int64), is_leaf)
            for name in ("nodes_truenodeids", "nodes_falsenodeids")
        )
        owners = np.array(found[f"{prefix}_treeids"], np.int64) * _IDS_MAX
        owners += np.array(found[f"{prefix}_nodeids"], np.int64)
        answers = np.array(found[f"{prefix}_ids"], np.int64)
        values = np.array(found[f"{prefix}_weights"], np.float64)
    except KeyError as error:
        raise ValueError(f"a tree ensemble without {error}") from error
    ids, columns = np.unique(answers, return_inverse=True)
    weights = np.zeros((len(keys), len(ids)))
    np.add.at(weights, (_look_up(keys, owners), columns), values)
    _, tree = np.unique(numbers, return_inverse=True)
    return Trees(
        attributes=found,
        prefix=prefix,
        tree=tree,
        yes=yes,
        no=no,
        is_leaf=is_leaf,
        depth=_find_depths(yes, no, is_leaf),
        weights=weights,
        ids=ids,
    )


def find_roots(trees: Trees) -> Array:
    """Give the place of each tree's root, by number of the tree."""
    is_child = np.zeros(len(trees.tree), bool)
    branches = ~trees.is_leaf
    is_child[trees.yes[branches]] = is_child[trees.no[branches]] = True
    places = np.flatnonzero(~is_child)
    roots: Array = places[np.argsort(trees.tree[places], kind="stable")]
    if len(roots) != trees.count:
        raise ValueError("a tree has several roots")
    return roots


def find_leaves(trees: Trees, rows: Array) -> Array:
    """Give the place of the leaf of each row in each tree [rows, trees]."""
    features = np.array(trees.attributes["nodes_featureids"], np.int64)
    name, kind = (_WIDE, np.float64) if trees.is_wide else ("nodes_values", np.float32)
    values = np.array(trees.attributes[name], kind)
    tracks = trees.attributes.get("nodes_missing_value_tracks_true") or [0] * len(features)
    missing_is_yes = np.array(tracks, bool)
    modes = np.array(trees.attributes["nodes_modes"], object)
    at = np.broadcast_to(find_roots(trees), (len(rows), trees.count)).copy()
    lines = np.arange(len(rows))[:, None]
    for _ in range(int(trees.depth.max(initial=0))):
        cells = rows[lines, features[at]]
        holds = np.zeros(at.shape, bool)
        for mode, compare in _COMPARE.items():
            of_mode = modes[at] == mode
            if of_mode.any():
                holds |= of_mode & compare(cells, values[at])
        holds |= np.isnan(cells) & missing_is_yes[at]
        at = np.where(holds, trees.yes[at], trees.no[at])
    return at


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtrees:
    """What rows made of the subtree below each node.

    Attributes:
        mean: Its answer as one leaf [nodes, answers].
        loss: Sum over rows of the squared difference to what it answered.
        leaves: How many leaves it has.
    """

    mean: Array
    loss: Array
    leaves: Array


def weigh_subtrees(trees: Trees, rows: Array) -> Subtrees:
    """Sum up each subtree over rows; where none passes, its leaves count alike and cost nothing."""
    visits = np.bincount(find_leaves(trees, rows).ravel(), minlength=len(trees.tree))
    count = np.where(trees.is_leaf, visits, 0).astype(np.float64)
    total = trees.weights * count[:, None]
    squares = (trees.weights**2).sum(axis=1) * count
    plain, leaves = trees.weights.copy(), trees.is_leaf.astype(np.float64)
    for branches in reversed(list_branches(trees)):
        for sums in (count, total, squares, plain, leaves):
            sums[branches] = sums[trees.yes[branches]] + sums[trees.no[branches]]
    seen = count > 0
    mean = np.where(
        seen[:, None], total / np.maximum(count, 1)[:, None], plain / np.maximum(leaves, 1)[:, None]
    )
    loss = np.where(seen, squares - (mean**2).sum(axis=1) * count, 0.0)
    return Subtrees(mean=mean, loss=np.maximum(loss, 0.0), leaves=leaves)


def write_trees(
    node: NodeProto,
    trees: Trees,
    *,
    kept: Array,
    cut: Array,
    mean: Array | None = None,
    scale: float = 1.0,
) -> None:
    """Write some trees back, in place.

    Args:
        node: The one they were read from.
        trees: What was read.
        kept: Which trees stay, by number.
        cut: Which nodes become leaves.
        mean: What those answer.
        scale: Factor of every weight.
    """
    places = np.flatnonzero(find_alive(trees, kept, cut))
    is_leaf = trees.is_leaf | cut
    tree, name = _number_again(trees, places)
    weights = trees.weights if mean is None else np.where(cut[:, None], mean, trees.weights)
    found = dict(trees.attributes)
    found["nodes_treeids"], found["nodes_nodeids"] = tree[places].tolist(), name[places].tolist()
    found["nodes_truenodeids"] = np.where(is_leaf, 0, name[trees.yes])[places].tolist()
    found["nodes_falsenodeids"] = np.where(is_leaf, 0, name[trees.no])[places].tolist()
    for attribute, blank in _BLANKS.items():
        if found.get(attribute):
            old = found[attribute]
            found[attribute] = [blank if is_leaf[place] else old[place] for place in places]
    leaves = places[is_leaf[places]]
    filled = weights[leaves] != 0
    filled[~filled.any(axis=1), 0] = True
    rows, columns = np.nonzero(filled)
    owners = leaves[rows]
    found[f"{trees.prefix}_treeids"] = tree[owners].tolist()
    found[f"{trees.prefix}_nodeids"] = name[owners].tolist()
    found[f"{trees.prefix}_ids"] = trees.ids[columns].tolist()
    values = (weights[leaves[rows], columns] * scale).astype(np.float32)
    found[f"{trees.prefix}_weights"] = values.tolist()
    if _WIDE in found:
        found[_WIDE] = numpy_helper.from_array(np.array(found[_WIDE], np.float64))
    del node.attribute[:]
    node.attribute.extend(
        helper.make_attribute(attribute, value)
        for attribute, value in sorted(found.items())
        if not isinstance(value, list) or value
    )


def list_branches(trees: Trees) -> list[Array]:
    """Give the places of the branches of each depth, the roots first."""
    branches = ~trees.is_leaf
    deepest = int(trees.depth.max(initial=0))
    return [np.flatnonzero(branches & (trees.depth == depth)) for depth in range(deepest)]


def find_alive(trees: Trees, kept: Array, cut: Array) -> Array:
    """Tell which nodes are left of some trees when subtrees become leaves."""
    alive = np.zeros(len(trees.tree), bool)
    alive[find_roots(trees)[kept]] = True
    for branches in list_branches(trees):
        lives_on = alive[branches] & ~cut[branches]
        alive[trees.yes[branches]] = alive[trees.no[branches]] = lives_on
    return alive


def _number_again(trees: Trees, places: Array) -> tuple[Array, Array]:
    """Number trees, and nodes within each tree, without gaps: onnxruntime wants it so."""
    _, tree = np.unique(trees.tree[places], return_inverse=True)
    first = np.zeros(int(tree.max()) + 2, np.int64)
    np.add.at(first, tree + 1, 1)
    order = np.argsort(tree, kind="stable")
    name = np.empty(len(places), np.int64)
    name[order] = np.arange(len(places)) - np.cumsum(first)[tree[order]]
    trees_of, names_of = np.zeros((2, len(trees.tree)), np.int64)
    trees_of[places], names_of[places] = tree, name
    return trees_of, names_of


def _look_up(keys: Array, wanted: Array) -> Array:
    order = np.argsort(keys, kind="stable")
    places = order[np.clip(np.searchsorted(keys[order], wanted), 0, len(keys) - 1)]
    if not np.array_equal(keys[places], wanted):
        raise ValueError("a tree names a node that it does not have")
    return places


def _find_places(keys: Array, numbers: Array, children: Array, is_leaf: Array) -> Array:
    own = np.arange(len(keys))
    places = own.copy()
    branches = ~is_leaf
    wanted = numbers[branches] * _IDS_MAX + children[branches]
    places[branches] = _look_up(keys, wanted)
    return places


def _find_depths(yes: Array, no: Array, is_leaf: Array) -> Array:
    """Give distances from the root; raises ValueError for what is no tree."""
    depth = np.zeros(len(yes), np.int64)
    branches = np.flatnonzero(~is_leaf)
    for _ in range(len(yes) + 1):
        deeper = depth.copy()
        for children in (yes, no):
            np.maximum.at(deeper, children[branches], depth[branches] + 1)
        if np.array_equal(deeper, depth):
            return depth
        if deeper.max() > len(yes):
            break
        depth = deeper
    raise ValueError("a tree leads back to itself")
