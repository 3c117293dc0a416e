"""Explain a graph or package file for ``edge-convert inspect``: what it is, who could run it.

A graph is walked, never built into a model or loaded, so any file may be looked at, also one that
no package may hold: data in other files, operators of other domains, functions, loops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.errors import InvalidRequestError
from converters.evidence import read_evidence
from converters.lowering_plan import plan_lowering
from converters.needs import find_operators
from converters.normalise import find_oldest_ir
from converters.outline import LOOPS, Outline, Value, read_outline
from converters.source_files import is_graph, is_package, load_package, read_file
from device_profiles.compatibility import PackageNeeds, find_misfits
from device_profiles.operators import DOMAINS
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.errors import ContractError
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.package import EVIDENCE, MODEL, SCHEMA
from edge_agent.contract.schema import ModelSchema, Task

PARTS_SHOWN_MAX = 20
ML_DOMAIN = "ai.onnx.ml"
_STATIC = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul"})


def describe_file(path: Path, profiles: Sequence[DeviceProfile]) -> dict[str, Any]:
    """Tell what is in a ``.onnx`` or package file and what each profile says to it.

    Args:
        path: The file.
        profiles: Those to ask.

    Raises:
        InvalidRequestError: Neither of the two kinds, or not sound.
    """
    if is_package(path):
        members = load_package(path)
        content, size = members[MODEL], path.stat().st_size
        described, needs = _describe_members(members, size)
    elif is_graph(path):
        content = read_file(path)
        size, described, needs = len(content), {}, None
    else:
        raise InvalidRequestError(f"{path.name}: inspect reads .onnx and package .tar files")
    try:
        outline = read_outline(content, what=path.name)
    except ContractError as error:
        raise InvalidRequestError(str(error)) from error
    if not outline.operators:
        raise InvalidRequestError(f"{path.name} is not an ONNX model: it has no nodes")
    versions = find_operators(outline.operators, outline.opsets)
    needs = needs or _find_needs(outline, versions, size)
    described |= {
        "file": path.name,
        "bytes": size,
        "model_bytes": len(content),
        "producer": outline.producer,
        "ir": outline.ir,
        "opset": outline.opsets.get("", 0),
        "opset_ml": outline.opsets.get(ML_DOMAIN, 0),
        "opsets": {name or "ai.onnx": n for name, n in sorted(outline.opsets.items())},
        "precision": str(needs.precision),
        "inputs": {value.name: _shape(value) for value in outline.inputs},
        "outputs": {value.name: _shape(value) for value in outline.outputs},
        "input_types": {value.name: value.element for value in outline.inputs},
        "output_types": {value.name: value.element for value in outline.outputs},
        "operators": dict(sorted(outline.operators.items())),
        "operator_versions": versions,
        "parts": _list_parts(outline),
        "remarks": list(_find_remarks(outline)),
        "refused": _find_refusal(content),
    }
    is_source = is_graph(path) and not described["refused"]
    described["profiles"] = [
        _ask_profile(needs, profile, outline if is_source else None) for profile in profiles
    ]
    return described


def _ask_profile(
    needs: PackageNeeds, profile: DeviceProfile, source: Outline | None
) -> dict[str, Any]:
    """Tell what stands against a profile, and what a build does to a graph of newer operators.

    Args:
        needs: Of the file as it is.
        profile: Who is asked.
        source: What a package may be built of; None asks for the file as it is.
    """
    if source is None:
        misfits = [str(misfit) for misfit in find_misfits(needs, profile)]
        return {"profile": profile.id, "misfits": misfits, "lowered": ""}
    plan = plan_lowering(list(source.operators), source.opsets, profile)
    kept = [name for name in source.operators if name not in plan.written_out]
    lowered = replace(
        needs,
        ir=min(needs.ir, find_oldest_ir(plan.opsets)),
        opset=plan.opsets.get("", 0),
        opset_ml=plan.opsets.get(ML_DOMAIN, 0),
        operators=find_operators(dict.fromkeys(kept, 1), plan.opsets),
    )
    known = {misfit.field for misfit in plan.obstacles}
    others = [one for one in find_misfits(lowered, profile) if one.field not in known]
    return {
        "profile": profile.id,
        "misfits": [str(misfit) for misfit in (*plan.obstacles, *others)],
        "lowered": "" if plan.obstacles else plan.sentence,
    }


def _find_needs(outline: Outline, versions: Mapping[str, int], size: int) -> PackageNeeds:
    return PackageNeeds(
        ir=outline.ir,
        opset=outline.opsets.get("", 0),
        opset_ml=outline.opsets.get(ML_DOMAIN, 0),
        precision=_find_precision(outline),
        package_bytes=size,
        operators=versions,
        is_full_range=outline.is_full_range,
    )


def _find_precision(outline: Outline) -> Precision:
    if "DynamicQuantizeLinear" in outline.operators:
        return Precision.INT8_DYNAMIC
    if _STATIC & set(outline.operators):
        return Precision.INT8_STATIC
    return Precision.FP16 if outline.has_float16 else Precision.FP32


def _find_refusal(content: bytes) -> str:
    """Say why no package may hold the graph; empty when one may."""
    try:
        check_onnx(content)
    except ContractError as error:
        return str(error)
    return ""


def _find_remarks(outline: Outline) -> list[str]:
    """Name what makes a graph hard to carry or to bound."""
    remarks = [f"data lies in another file: {name}" for name in outline.files]
    strange: dict[str, list[str]] = {}
    for name in sorted(outline.operators):
        domain, _, operator = name.rpartition(":")
        if domain not in DOMAINS:
            strange.setdefault(domain, []).append(operator)
    remarks += [
        f"custom operators of {domain}: {', '.join(names[:10])}; they need a library that no"
        " device has"
        for domain, names in strange.items()
    ]
    loops = sorted(LOOPS & set(outline.operators))
    if loops:
        remarks.append(f"{', '.join(loops)}: how long it runs depends on the row")
    if outline.functions:
        remarks.append(f"{outline.functions} functions of its own: export with functions inlined")
    if outline.has_training:
        remarks.append("training information, which a device has no use for")
    return remarks


def _list_parts(outline: Outline) -> list[dict[str, Any]]:
    """List the largest parts and, last, what the others are together."""
    ordered = sorted(outline.parts, key=lambda part: -part.size_bytes)
    described: list[dict[str, Any]] = [
        {
            "name": part.name,
            "type": part.element or "attribute",
            "shape": list(part.shape),
            "bytes": part.size_bytes,
            **({"file": part.file} if part.file else {}),
        }
        for part in ordered[:PARTS_SHOWN_MAX]
    ]
    rest = ordered[PARTS_SHOWN_MAX:]
    if rest:
        size = sum(part.size_bytes for part in rest)
        described.append({"name": f"{len(rest)} more", "type": "", "shape": [], "bytes": size})
    return described


def _describe_members(members: Mapping[str, bytes], size: int) -> tuple[dict[str, Any], Any]:
    try:
        schema = ModelSchema.decode(members[SCHEMA])
        evidence = read_evidence(members[EVIDENCE])
        needs = PackageNeeds.from_evidence(evidence, package_bytes=size)
    except (ContractError, ValueError) as error:
        raise InvalidRequestError(f"the package is not sound: {error}") from error
    described: dict[str, Any] = {
        "model": schema.model,
        "task": str(schema.task),
        **_describe_input(schema, evidence),
        "built_for": evidence.get("profile"),
        "decision": evidence.get("decision"),
        "metric": evidence.get("metric"),
        "members": {name: len(content) for name, content in members.items()},
    }
    if schema.task is Task.CLASSIFICATION:
        described["classes"] = list(schema.classes)
    if schema.labels:
        described["labels"] = {label.name: list(label.classes) for label in schema.labels}
    if schema.targets:
        described["targets"] = list(schema.targets)
    if needs.rss_bytes is not None:
        described["rss_bytes"] = needs.rss_bytes
    return described, needs


def _describe_input(schema: ModelSchema, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Tell what one row is: so many features, or a picture and what the graph makes of it."""
    if schema.image is None:
        return {"features": len(schema.features)}
    built = evidence.get("image")
    measured = built if isinstance(built, Mapping) else {}
    names = ("pictures", "golden", "latency_ms_median", "timed_pixels", "front_ms")
    return {
        "image": schema.image.to_json()
        | {name: measured[name] for name in names if name in measured},
        "figures": [feature.name for feature in schema.features],
    }


def _shape(value: Value) -> list[int | str | None] | None:
    if value.shape is None:
        return None
    return [size if isinstance(size, int) else None for size in value.shape]
