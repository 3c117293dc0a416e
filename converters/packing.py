"""Put a chosen rung into a package and try that package as a device would."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from converters.climb import Ladder
from converters.errors import ConversionError, InvalidRequestError, ProfileMisfitError
from converters.evidence import (
    EVIDENCE_FORMAT,
    describe_answers,
    describe_front,
    describe_limits,
    describe_machine,
    describe_metric_of_each,
    describe_parity,
    encode_evidence,
    read_evidence,
)
from converters.golden import build_golden, check_golden, find_tolerance
from converters.graph import ML_DOMAIN, count_operators, find_opset, parse_model
from converters.ladder import Choice
from converters.needs import find_needs
from converters.parity import TOLERANCE_FP32
from converters.reference_times import measure_here
from converters.request import BuildRequest, BuiltPackage
from converters.rows import Rows
from converters.rungs import Exam
from converters.runtime import GraphRunner
from device_profiles.compatibility import find_misfits
from edge_agent.contract.errors import ContractError
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.package import (
    EVIDENCE,
    GOLDEN,
    MODEL,
    REFERENCE,
    SCHEMA,
    pack_members,
    unpack_members,
)
from edge_agent.contract.schema import ModelSchema
from edge_agent.statistics.reference import Reference, build_reference


def pack_rung(
    request: BuildRequest,
    rows: Rows,
    exam: Exam,
    ladder: Ladder,
    choice: Choice,
    background: Mapping[str, Any],
) -> BuiltPackage:
    """Pack the chosen rung and replay its golden rows from the packed bytes.

    Args:
        request: What was asked for.
        rows: Calibration rows feed the drift reference, held-out rows the golden ones.
        exam: The held-out questions.
        ladder: Every rung, measured.
        choice: Must name a rung.
        background: Further members of evidence.json.

    Raises:
        ProfileMisfitError: The graph needs operators or memory that the profile does not have.
        ConversionError: The packed bytes do not answer as the measured graph did.
    """
    rung = next(rung for rung in ladder.rungs if rung.name == choice.name)
    built, precision = ladder.built[rung.name], rung.precision
    model = parse_model(built.model, what="the chosen graph")
    operators = count_operators(model)
    needs = find_needs(model, precision, rss_bytes=rung.rss_bytes or None)
    if misfits := find_misfits(needs, request.profile):
        raise ProfileMisfitError(request.profile.id, misfits)
    tolerance = find_tolerance(precision, operators)
    golden, golden_rows = build_golden(built.runner, rows.holdout, exam.schema, tolerance)
    try:
        reference = build_reference(exam.schema, rows.calibration, built.outputs).encode()
    except ValueError as error:
        raise InvalidRequestError(f"no drift reference: {error}") from error
    evidence = encode_evidence(
        {
            "format": EVIDENCE_FORMAT,
            "context": request.evidence_context,
            "model": exam.schema.model,
            "profile": request.profile.id,
            "precision": str(precision),
            "rung": rung.name,
            "decision": choice.sentence,
            **background,
            "limits": describe_limits(ladder.limits),
            "asked": {
                "effort": str(request.effort),
                "smaller": str(request.smaller),
                "prefer": [str(criterion) for criterion in request.order],
            },
            "notes": list(ladder.notes),
            "rows": {"calibration": len(rows.calibration), "holdout": len(rows.holdout)},
            "metric": {
                "name": exam.metric.name,
                "is_higher_better": exam.metric.is_higher_better,
                "source": exam.score,
                "fp32": ladder.rungs[0].metric,
                "shipped": rung.metric,
                "drop": rung.metric_drop,
                **describe_metric_of_each(
                    exam.schema, exam.metric, exam.targets, exam.truth, built.outputs
                ),
            },
            "parity": describe_parity(built.parity, TOLERANCE_FP32),
            **describe_answers(exam.schema, exam.targets, built.outputs),
            "graph": {
                "ir": model.ir_version,
                "opset": find_opset(model, ""),
                "opset_ml": find_opset(model, ML_DOMAIN),
                "operators": operators,
                "bytes": len(built.model),
            },
            "needs": needs.describe(),
            "golden": {"rows": golden_rows, "tolerance": tolerance},
            "measured_with": {
                **describe_machine(),
                "threads": request.profile.intra_op_threads,
                "calibration": measure_here(
                    request.profile.intra_op_threads, request.plan
                ).to_json(),
                "rounds": request.plan.rounds,
                **describe_front(request.plan),
                "runs_per_round": dict(ladder.runs),
            },
        }
    )
    blob = pack_members(
        {
            MODEL: built.model,
            SCHEMA: exam.schema.encode(),
            GOLDEN: golden,
            REFERENCE: reference,
            EVIDENCE: evidence,
        }
    )
    _try_package(blob, request)
    return BuiltPackage(
        blob=blob,
        sha256=hashlib.sha256(blob).hexdigest(),
        precision=precision,
        evidence=read_evidence(evidence),
        latency_ms_p95=rung.latency_ms_p95,
        label_flips=rung.flip_share,
        max_abs_error=rung.max_abs_error,
        decision=choice.sentence,
        schema=exam.schema,
        reference=reference,
        needs=replace(needs, package_bytes=len(blob)),
    )


def _try_package(blob: bytes, request: BuildRequest) -> None:
    """Open the package as a device would and replay its golden rows."""
    members = unpack_members(blob)
    try:
        check_onnx(members[MODEL])
    except ContractError as error:
        raise ConversionError(f"a device would refuse the package: {error}") from error
    schema = ModelSchema.decode(members[SCHEMA])
    Reference.decode(members[REFERENCE])
    problems = check_golden(members[GOLDEN], GraphRunner(members[MODEL], request.profile), schema)
    if problems:
        raise ConversionError(f"the package fails its own golden rows: {'; '.join(problems)}")
