"""Build one profile's package and let the shipped graph answer, by way of the converters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.build import build_package
from converters.errors import ConversionError
from converters.metrics import OverLabels, PrimaryMetric
from converters.request import (
    BuildRequest,
    BuiltPackage,
    Criterion,
    Effort,
    ProfileLimits,
    Smaller,
)
from converters.runtime import GraphRunner
from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.package import MODEL, unpack_members
from edge_agent.contract.schema import ModelSchema, Role, Task
from fleet_server.errors import RefusedError
from fleet_server.training.dataset import Side
from fleet_server.training.metrics import METRICS, Answers
from fleet_server.training.picture_set import PictureSet
from fleet_server.training.spec import ProfileLimit

CALIBRATION_ROWS_MAX = 100_000


def build_for_profile(
    estimator: Any,
    schema: ModelSchema,
    profile: DeviceProfile,
    limit: ProfileLimit,
    train: Side,
    test: Side,
    *,
    primary: str,
    context: Mapping[str, Any],
) -> BuiltPackage:
    """Convert, quantize, check and pack for one profile; arguments as of ``make_request``.

    Raises:
        RefusedError: No faithful graph, or none that fits the profile.
    """
    request = make_request(
        estimator, schema, profile, limit, train, test, primary=primary, context=context
    )
    try:
        return build_package(request)
    except ConversionError as error:
        raise RefusedError(f"{profile.id}: {error}") from error


def make_request(
    estimator: Any,
    schema: ModelSchema,
    profile: DeviceProfile,
    limit: ProfileLimit,
    train: Side,
    test: Side,
    *,
    primary: str,
    context: Mapping[str, Any],
) -> BuildRequest:
    """Say what is asked of the converters.

    Args:
        estimator: Fitted; answers class indexes or values.
        schema: Of the package.
        profile: What it is built for.
        limit: What the spec asks for this profile.
        train: Rows that give int8 its ranges and drift its reference.
        test: Held-out rows that every figure is from.
        primary: Metric that decides how much conversion may cost.
        context: Stored in evidence.json.
    """
    return BuildRequest(
        estimator=estimator,
        schema=schema,
        profile=profile,
        calibration=train.features[:CALIBRATION_ROWS_MAX],
        holdout=test.features,
        holdout_targets=test.targets,
        limits=ProfileLimits(
            latency_ms_p95_max=limit.latency_ms_p95_max,
            package_bytes_max=limit.package_bytes_max,
            metric_drop_max=limit.metric_drop_max,
            label_flips_max=limit.label_flips_max,
            rows_off_max=limit.rows_off_max,
            error_max=limit.error_max,
        ),
        effort=Effort(limit.effort),
        smaller=Smaller(limit.smaller),
        prefer=tuple(map(Criterion, limit.prefer)),
        metric=_primary(primary, schema),
        evidence_context=context,
    )


def answer_package(
    blob: bytes,
    task: Task,
    profile: DeviceProfile,
    features: NDArray[np.float32],
    pictures: PictureSet | None = None,
) -> Answers:
    """Let a package just built answer; raises RefusedError when the runtime refuses it.

    Args:
        blob: The package.
        task: Of the model.
        profile: What it was built for.
        features: Rows to answer.
        pictures: What the rows were made of: asked instead of them where they are given.
    """
    model = unpack_members(blob)[MODEL]
    if pictures is not None:
        return answer_pictures(model, task, profile, pictures)
    return answer_shipped(model, task, profile, features)


def answer_pictures(
    model: bytes, task: Task, profile: DeviceProfile, pictures: PictureSet
) -> Answers:
    """Run a shipped graph on pictures, one after the other, as a device would.

    Raises:
        RefusedError: onnxruntime refuses it, or a picture's file was changed.
    """
    try:
        runner = GraphRunner(model, profile)
        found = [runner.run_pictures(picture[None]) for picture in pictures]
    except ConversionError as error:
        raise RefusedError(f"{profile.id}: {error}") from error
    outputs = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return _read_outputs(task, outputs)


def answer_shipped(
    model: bytes, task: Task, profile: DeviceProfile, features: NDArray[np.float32]
) -> Answers:
    """Run a shipped graph as a device of the profile would.

    Raises:
        RefusedError: onnxruntime refuses it.
    """
    try:
        return _read_outputs(task, GraphRunner(model, profile).run(features))
    except ConversionError as error:
        raise RefusedError(f"{profile.id}: {error}") from error


def _read_outputs(task: Task, outputs: Mapping[str, NDArray[Any]]) -> Answers:
    if task is Task.CLASSIFICATION:
        return Answers.of_classes(outputs[Role.LABEL], outputs[Role.PROBABILITIES])
    return Answers.of_values(outputs[Role.VALUE])


def _primary(name: str, schema: ModelSchema) -> PrimaryMetric:
    metric = METRICS[name]

    def score(targets: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> float:
        return metric.of(targets, _read_outputs(metric.task, outputs))

    is_mean = bool(schema.labels) and not metric.needs_labels
    return PrimaryMetric(
        name=name,
        is_higher_better=metric.is_larger_better,
        score=OverLabels(score, slice_labels(schema.labels)) if is_mean else score,
    )
