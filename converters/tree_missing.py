"""Send missing values down the branch the source sends them: skl2onnx leaves that out.

scikit-learn's trees, fitted without missing values or with them, keep a direction for NaN in every
split. The converter writes none but for HistGradientBoosting, so a NaN always goes right. The
splits of a graph are found again by their structure: nodes stand in the order of the source's.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto

from converters.graph import ML_DOMAIN, iterate_nodes

Array = NDArray[Any]
_FLAGS = "nodes_missing_value_tracks_true"
_LEAF = b"LEAF"


def send_missing(model: ModelProto, estimators: Iterable[Any]) -> int:
    """Write the direction of NaN into every tree of a graph that is one of the source's.

    Args:
        model: Changed in place.
        estimators: The fitted trees, in the order they were converted.

    Returns:
        How many splits send NaN to the left.
    """
    known: dict[bytes, deque[Array]] = defaultdict(deque)
    for estimator in estimators:
        tree = estimator.tree_
        if np.any(tree.missing_go_to_left):
            splits = tree.children_left != -1
            key = _key(tree.children_left[splits], tree.children_right[splits])
            known[key].append(np.where(splits, tree.missing_go_to_left, 0).astype(np.int64))
    if not known:
        return 0
    return sum(
        _send(node, known)
        for node in iterate_nodes(model)
        if node.domain == ML_DOMAIN and node.op_type.startswith("TreeEnsemble")
    )


def _send(node: NodeProto, known: dict[bytes, deque[Array]]) -> int:
    found = {attribute.name: attribute for attribute in node.attribute}
    owners = np.array(found["nodes_treeids"].ints, np.int64)
    left, right = (
        np.array(found[f"nodes_{side}nodeids"].ints, np.int64) for side in ("true", "false")
    )
    splits = np.array([mode != _LEAF for mode in found["nodes_modes"].strings])
    flags = np.zeros(len(owners), np.int64)
    if _FLAGS in found and found[_FLAGS].ints:
        flags[:] = found[_FLAGS].ints
    changed = 0
    starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    for start, end in zip(starts, [*starts[1:], len(owners)], strict=True):
        mine = splits[start:end]
        waiting = known.get(_key(left[start:end][mine], right[start:end][mine]))
        if waiting and len(waiting[0]) == end - start:
            # The last of equal structures stays: one tree may stand in the graph more than once.
            own = waiting.popleft() if len(waiting) > 1 else waiting[0]
            flags[start:end] = own
            changed += int(own.sum())
    if changed:
        if _FLAGS in found:
            del found[_FLAGS].ints[:]
            found[_FLAGS].ints.extend(flags.tolist())
        else:
            node.attribute.append(
                AttributeProto(name=_FLAGS, type=AttributeProto.INTS, ints=flags.tolist())
            )
    return changed


def _key(left: Array, right: Array) -> bytes:
    return left.astype(np.int64).tobytes() + b"/" + right.astype(np.int64).tobytes()
