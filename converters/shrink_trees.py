"""Leave out of tree ensembles what never changes an answer: bytes, load time and memory.

The exporter writes a weight for every class of every leaf, zeros included, and hit rates that no
runtime reads. The answers stay the same bit for bit: adding a zero adds nothing.
"""

import numpy as np
from onnx import ModelProto, NodeProto

from converters.graph import ML_DOMAIN, iterate_nodes

_IDS_MAX = 2**31


def shrink_trees(model: ModelProto) -> None:
    """Shrink every tree ensemble of a graph in place."""
    for node in iterate_nodes(model):
        if node.domain == ML_DOMAIN and node.op_type.startswith("TreeEnsemble"):
            _drop(node, "nodes_hitrates")
            _drop_unused_missing(node)
            _drop_zero_weights(node)


def _drop(node: NodeProto, name: str) -> None:
    for position, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[position]
            return


def _drop_unused_missing(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "nodes_missing_value_tracks_true" and not any(attribute.ints):
            _drop(node, attribute.name)
            return


def _drop_zero_weights(node: NodeProto) -> None:
    """Keep the non-zero class weights, and the first of each leaf that has none."""
    found = {attribute.name: attribute for attribute in node.attribute}
    if "class_weights" not in found:
        return
    weights = np.array(found["class_weights"].floats, np.float32)
    trees = np.array(found["class_treeids"].ints, np.int64)
    leaves = trees * _IDS_MAX + np.array(found["class_nodeids"].ints, np.int64)
    kept = weights != 0
    _, first, owners = np.unique(leaves, return_index=True, return_inverse=True)
    has_weight = np.zeros(len(first), bool)
    has_weight[owners[kept]] = True
    kept[first[~has_weight]] = True
    for name in ("class_treeids", "class_nodeids", "class_ids"):
        values = np.array(found[name].ints, np.int64)[kept]
        del found[name].ints[:]
        found[name].ints.extend(values.tolist())
    del found["class_weights"].floats[:]
    found["class_weights"].floats.extend(weights[kept].tolist())
