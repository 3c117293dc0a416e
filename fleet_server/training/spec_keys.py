"""Every key of the spec format: those that work, and those of later versions, refused by name.

A key that is silently ignored is a promise silently broken: what is in neither list is a typing
error, what is in the second is named as not supported.
"""

from collections.abc import Mapping

KNOWN: Mapping[str, tuple[str, ...]] = {
    "": ("model", "data", "input", "split", "train", "metrics", "profiles", "approval", "family"),
    "model": ("name", "task", "problem", "owner", "business"),
    "model.business": ("metric", "baseline", "target"),
    "data": ("source", "pictures", "target", "features", "group", "unreadable_max"),
    "input": ("size", "colours", "resize", "scale", "mean", "deviation", "pixels_max"),
    "data.features.*": (
        "type",
        "shape",
        "range",
        "min",
        "max",
        "unit",
        "values",
        "values_max",
        "unknown",
        "missing",
        "chars_max",
        "terms_max",
        "ngrams",
        "terms",
    ),
    "split": ("test", "seed", "freeze"),
    "train": ("estimator", "params", "steps", "seed"),
    "train.params cnn": (
        "channels",
        "hidden",
        "dropout",
        "epochs_max",
        "patience",
        "batch",
        "learning_rate",
        "validation",
        "class_weight",
        "flip",
        "shift",
        "threads",
    ),
    "train.steps.*": ("use", "params"),
    "metrics.*": ("floor", "ceiling", "regression_max"),
    "profiles.*": (
        "latency_ms_p95_max",
        "package_bytes_max",
        "metric_drop_max",
        "label_flips_max",
        "rows_off_max",
        "error_max",
        "effort",
        "smaller",
        "prefer",
    ),
    "approval": ("signatures",),
    "family": ("partition", "rows_min", "fail_max", "fallback"),
}
"""Keys by table; ``*`` stands for a name of the user's."""

EFFORTS = ("quick", "full")
SMALLER = ("no", "pruned", "distilled")
CRITERIA = ("accuracy", "latency", "size", "memory")
"""What ``effort``, ``smaller`` and ``prefer`` of a profile may say; the first is the default."""

LATER: Mapping[str, Mapping[str, str]] = {
    "": {
        "segments": "",
        "explain": "",
        "retrain": "start `edgefleet train` yourself when an alarm opens",
        "rollout": "give the stages to `edgefleet rollout plan`",
    },
    "model": {
        "intended_use": "say it in model.problem",
        "out_of_scope": "say it in model.problem",
        "code": "use the estimators and steps of scikit-learn",
    },
    "data": {
        "id": "remove the column from the features; it is then left aside",
        "time": "rows are split at random by their own hash",
        "drop": "columns that are not features are left aside",
        "rules": "",
        "label_noise": "",
        "weight": "",
    },
    "data.features.*": {
        "nulls_max": 'say missing = "allow" or "refuse"',
        "tokens_max": "say chars_max of the text, and terms_max of what is learned of it",
    },
    "split": {
        "by": "rows are split at random by their own hash",
        "stratify": "class shares of both sides are reported",
        "gap_days": "",
        "cv": "",
        "leakage": "equal rows always fall on the same side",
        "column": "",
    },
    "train": {
        "columns": "name a step, it reads every column",
        "threshold": "",
        "baselines": "",
        "search": "give the values in train.params",
    },
    "train.steps.*": {"columns": "a step reads every column"},
    "metrics.*": {
        "of": "precision and recall are means over the classes",
        "direction": "",
        "function": "",
    },
    "metrics": {"cost": "", "family": ""},
    "family": {
        "members_max": "",
        "per_member": "write a spec of its own for such a member",
        "chunk": "",
        "sample_evidence": "every member has its evidence",
        "release": "regression_max leaves members out that are worse than their champion",
    },
    "approval": {"auto": "", "card_required": "", "scope": ""},
}
"""Keys of the format that do not work yet, with what to do instead where there is something."""

LATER_SOURCES: Mapping[str, str] = {
    "dataset": "name the file: file:PATH",
    "sql": "export the query to a CSV or Parquet file: file:PATH",
    "captured": "export the rows to a CSV or Parquet file: file:PATH",
    "sklearn": "write the table to a file first, as examples/digits/export_digits.py does",
}
LATER_TYPES: Mapping[str, str] = {}
LATER_TASKS = ("anomaly",)


def say_later(instead: str) -> str:
    """Give the words for a key of a later version.

    >>> say_later("use train.params")
    'not supported by this version; use train.params'
    """
    return "not supported by this version" + (f"; {instead}" if instead else "")
