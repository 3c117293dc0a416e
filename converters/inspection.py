"""Describe a graph or package file and compare two models, for ``edge-convert``."""

from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import InvalidRequestError
from converters.evidence import read_evidence
from converters.file_requests import FileSource, open_source
from converters.from_onnx import OnnxSource
from converters.graph import (
    ML_DOMAIN,
    count_operators,
    find_opset,
    parse_foreign,
    tensor_shape,
)
from converters.parity import Parity, compare_outputs
from converters.source_files import is_graph, is_package, load_package, read_file
from converters.tables import Table
from device_profiles.compatibility import PackageNeeds, find_misfits
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.package import EVIDENCE, MODEL, SCHEMA
from edge_agent.contract.schema import ModelSchema, Task

_INT8 = {
    Precision.INT8_DYNAMIC: "DynamicQuantizeLinear",
    Precision.INT8_STATIC: "QuantizeLinear",
}


def describe_file(path: Path, profile: DeviceProfile | None) -> dict[str, Any]:
    """Tell what is in a ``.onnx`` or package file and, given a profile, what stands against it.

    Raises:
        InvalidRequestError: Neither of the two.
    """
    if is_package(path):
        members = load_package(path)
        content, size = members[MODEL], path.stat().st_size
        described = _describe_members(members)
    elif is_graph(path):
        content = read_file(path)
        size, described = len(content), {}
    else:
        raise InvalidRequestError(f"{path.name}: inspect reads .onnx and package .tar files")
    model = parse_foreign(content, what=path.name)
    operators = count_operators(model)
    precision = next(
        (kind for kind, operator in _INT8.items() if operator in operators), Precision.FP32
    )
    graph = model.graph
    described |= {
        "file": path.name,
        "bytes": size,
        "model_bytes": len(content),
        "ir": model.ir_version,
        "opset": find_opset(model, ""),
        "opset_ml": find_opset(model, ML_DOMAIN),
        "precision": str(precision),
        "operators": operators,
        "inputs": {value.name: list(tensor_shape(graph, value.name)) for value in graph.input},
        "outputs": {value.name: list(tensor_shape(graph, value.name)) for value in graph.output},
    }
    if profile is not None:
        needs = PackageNeeds(
            ir=model.ir_version,
            opset=find_opset(model, ""),
            opset_ml=find_opset(model, ML_DOMAIN),
            precision=precision,
            package_bytes=size,
        )
        described["profile"] = profile.id
        described["misfits"] = [str(misfit) for misfit in find_misfits(needs, profile)]
    return described


def compare_files(
    source_path: Path,
    shipped_path: Path,
    table: Table,
    *,
    target: str | None,
    profile: DeviceProfile,
    tolerance: float,
) -> Parity:
    """Compare the answers of two model files on the rows of a table.

    Raises:
        ConversionError: A file cannot be read or run.
    """
    schema = None
    if is_package(shipped_path):
        schema = ModelSchema.decode(load_package(shipped_path)[SCHEMA])
    source = open_source(
        source_path, table, target=target, name="source", schema=schema, profile=profile
    )
    shipped = open_source(
        shipped_path, table, target=target, name="shipped", schema=source.schema, profile=profile
    )
    rows = table.read_numbers(source.schema.columns).astype(np.float32)
    return compare_outputs(
        source.schema.task, _answer(source, rows), _answer(shipped, rows), tolerance
    )


def _answer(source: FileSource, rows: Any) -> Any:
    if isinstance(source.model, OnnxSource):
        return source.model.answer(rows)
    from converters.from_sklearn import SklearnSource

    return SklearnSource(source.model, source.schema.task).answer(rows)


def _describe_members(members: dict[str, bytes]) -> dict[str, Any]:
    schema = ModelSchema.decode(members[SCHEMA])
    evidence = read_evidence(members[EVIDENCE])
    described: dict[str, Any] = {
        "model": schema.model,
        "task": str(schema.task),
        "features": len(schema.features),
        "built_for": evidence.get("profile"),
        "decision": evidence.get("decision"),
        "metric": evidence.get("metric"),
        "members": {name: len(content) for name, content in members.items()},
    }
    if schema.task is Task.CLASSIFICATION:
        described["classes"] = list(schema.classes)
    return described
