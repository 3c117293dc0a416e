"""What a version keeps of its training, as JSON values."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from edge_agent.contract.schema import ModelSchema
from fleet_server.ports.training import CodeVersion
from fleet_server.training.dataset import Dataset, Side, class_shares, label_shares
from fleet_server.training.examination import Confusion, Examination, ProfileResult
from fleet_server.training.spec import Spec

LIBRARIES = ("numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A fitted and measured model before conversion, and the rows of both sides.

    Attributes:
        metrics: Every metric of the task on the held-out rows.
        confusion: Held-out rows by truth and answer, of several labels for each by its name; empty
            for a regression.
    """

    spec: Spec
    schema: ModelSchema
    train: Side
    test: Side
    estimator: Any
    exam: Examination
    metrics: Mapping[str, float]
    confusion: Confusion


def describe_run(source: SourceModel, dataset: Dataset, code: CodeVersion) -> dict[str, Any]:
    """Tell from what and how: data, spec, split, code, libraries."""
    spec, classes, labels = source.spec, source.schema.classes, source.schema.labels
    return {
        "data_sha256": dataset.sha256,
        "spec_sha256": hashlib.sha256(spec.text.encode()).hexdigest(),
        "primary": spec.primary,
        "split": {
            "test": spec.split.test,
            "seed": spec.split.seed,
            "is_frozen": spec.split.is_frozen,
            "columns_sha256": dataset.columns_sha256,
            "train_rows": len(source.train),
            "test_rows": len(source.test),
            "train_shares": label_shares(source.train, labels)
            or class_shares(source.train, classes),
            "test_shares": label_shares(source.test, labels) or class_shares(source.test, classes),
        },
        "code": {"commit": code.commit, "is_dirty": code.is_dirty},
        "libraries": find_libraries(),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
    }


@cache
def find_libraries() -> Mapping[str, str]:
    """Give the release of each library that decides what is trained; looked up once a process."""
    return {name: version(name) for name in LIBRARIES}


def describe_evaluation(
    source: SourceModel,
    results: Mapping[str, ProfileResult],
    champion: int,
) -> dict[str, Any]:
    """Tell how the source and each shipped graph did.

    Args:
        source: Before conversion.
        results: By profile id.
        champion: Version it was compared with, 0 when none.
    """
    gates = [gate for result in results.values() for gate in result.gates]
    labels = source.schema.labels
    each = {"labels": {label.name: list(label.classes) for label in labels}} if labels else {}
    return {
        **each,
        "rows": len(source.test),
        "classes": list(source.schema.classes),
        "confusion": source.confusion,
        "shipped": {profile: result.to_json() for profile, result in results.items()},
        "gates": [gate.to_json() for gate in gates],
        "champion": champion,
    }
