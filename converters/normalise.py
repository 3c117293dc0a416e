"""Make a graph portable: within the profile, self-contained, and the same bytes every time.

Exporters write an operator set twice (which onnxruntime's quantizer refuses), newer file formats
than onnxruntime reads, comments, dead nodes, unused constants and names drawn at random. Invariants
of the result: one import a domain; IR and operator sets within the profile; only standard
operators; no external data; nothing that no answer depends on; no producer, comment or free
metadata; names by place; serialised deterministically.
"""

from collections.abc import Mapping

import onnx
from onnx import ModelProto, TensorProto

from converters.errors import InvalidRequestError, ProfileMisfitError
from converters.graph import (
    ML_DOMAIN,
    find_opset,
    iterate_graphs,
    iterate_nodes,
    name_by_place,
)
from converters.simplify import simplify
from device_profiles.compatibility import Misfit
from device_profiles.profile import DeviceProfile

PRODUCER = "edgefleet"
IR_MIN = 8
"""Oldest file format written: older ones repeat every constant among the inputs."""
_DOMAINS = ("", ML_DOMAIN)


def normalise(model: ModelProto, profile: DeviceProfile) -> bytes:
    """Give the portable bytes of a graph; the model itself is left alone.

    Raises:
        InvalidRequestError: Custom operators, external data or an unsound graph.
        ProfileMisfitError: A newer file format or operator set than the profile allows.
    """
    clean = ModelProto()
    clean.CopyFrom(model)
    _check_self_contained(clean)
    name_domains(clean)
    if not clean.functions:
        simplify(clean)
    _merge_imports(clean)
    _strip(clean)
    if not clean.functions and not any(g.sparse_initializer for g in iterate_graphs(clean.graph)):
        name_by_place(clean)
    opsets = {entry.domain: entry.version for entry in clean.opset_import}
    clean.ir_version = min(max(IR_MIN, clean.ir_version), find_oldest_ir(opsets))
    _check_profile(clean, profile)
    try:
        onnx.checker.check_model(clean)
    except onnx.checker.ValidationError as error:
        raise InvalidRequestError(f"the graph is not sound: {error}") from error
    return clean.SerializeToString(deterministic=True)


def _check_self_contained(model: ModelProto) -> None:
    foreign = sorted({n.domain for n in iterate_nodes(model)} - {*_DOMAINS, "ai.onnx"})
    if foreign:
        raise InvalidRequestError(
            f"the graph uses operators of {', '.join(foreign)}; a package runs on a plain"
            " onnxruntime: export with standard operators only"
        )
    for graph in iterate_graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise InvalidRequestError(
                    f"tensor {tensor.name!r} lies in another file; save the graph as one file"
                )


def name_domains(model: ModelProto) -> None:
    """Write ``ai.onnx`` as the empty domain, which is another name of it."""
    for entry in model.opset_import:
        if entry.domain == "ai.onnx":
            entry.domain = ""
    for node in iterate_nodes(model):
        if node.domain == "ai.onnx":
            node.domain = ""


def _merge_imports(model: ModelProto) -> None:
    """Keep one import a domain."""
    used = {"", *(node.domain for node in iterate_nodes(model))}
    versions = {domain: find_opset(model, domain) for domain in _DOMAINS if domain in used}
    for domain, version in versions.items():
        if version == 0 and any(node.domain == domain for node in iterate_nodes(model)):
            raise InvalidRequestError(f"the graph does not import its domain {domain!r}")
    del model.opset_import[:]
    for domain, version in versions.items():
        if version:
            model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def _strip(model: ModelProto) -> None:
    model.producer_name = PRODUCER
    model.producer_version = ""
    model.domain = ""
    model.model_version = 0
    model.doc_string = ""
    del model.metadata_props[:]
    model.graph.name = "model"
    for graph in iterate_graphs(model.graph):
        graph.doc_string = ""
        del graph.value_info[:]
        del graph.metadata_props[:]
        del graph.quantization_annotation[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]


def find_oldest_ir(opsets: Mapping[str, int]) -> int:
    """Give the oldest file format written for a graph that imports these operator sets.

    >>> find_oldest_ir({"": 13}), find_oldest_ir({"": 21})
    (8, 10)
    """
    oldest = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ignore_unknown=True,
    )
    return max(IR_MIN, int(oldest))


def _check_profile(model: ModelProto, profile: DeviceProfile) -> None:
    misfits = [
        Misfit(field=name, need=f"{need}", have=f"at most {limit}")
        for name, need, limit in (
            ("ir_max", model.ir_version, profile.ir_max),
            ("opset_max", find_opset(model, ""), profile.opset_max),
            ("opset_ml_max", find_opset(model, ML_DOMAIN), profile.opset_ml_max),
        )
        if need > limit
    ]
    if misfits:
        raise ProfileMisfitError(profile.id, misfits)
