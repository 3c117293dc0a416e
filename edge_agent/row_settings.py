"""Section ``[row_samples]`` of ``agent.toml``: which raw values may leave this device, and how.

Nothing leaves without it. A feature leaves only when it is named under its model, and only as its
rule says; what the schema has beside stays here. Unknown keys are refused by name. The docstring
of ``RowSettings`` is the reference.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_agent.adapters.row_key import load_row_key
from edge_agent.contract.rows import FEATURES_MAX, NAME_BYTES_MAX, Redaction
from edge_agent.errors import SettingsError
from edge_agent.settings import FILE, read_section

SECTION = "row_samples"
MODELS_MAX = 64
_DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRule:
    """How one feature leaves the device.

    Attributes:
        redaction: What is done to it.
        step: Of rounding.
    """

    redaction: Redaction
    step: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """Settings of sampling.

    Attributes:
        share: Of all rows, taken by chance, 0 to 1.
        confidence_max: Rows of a classification whose highest probability is not above this are
            taken as well, 0 to 1; 0 takes none.
        bytes_per_day_max: Most bytes of new rows a day, 1 and up; the device profile and the
            day's bytes of all telemetry bound it further.
        gather_s: How long rows are gathered in memory before they become a batch, 1 to 3600.
        key_file: File with the key of hashes, made at the first start when it is missing. Devices
            with the same key give the same value the same hash. Looked for in the agent's
            directory.
        models: Name of a model to its features: ``keep``, ``round STEP``, ``hash`` or ``drop``.
    """

    share: float = 0.01
    confidence_max: float = 0.0
    bytes_per_day_max: int = 1_048_576
    gather_s: float = 30.0
    key_file: str = "rows.key"
    models: Mapping[str, Mapping[str, FeatureRule]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges; raises SettingsError."""
        _check(0 <= self.share <= 1, "share", self.share, "0 to 1")
        _check(0 <= self.confidence_max <= 1, "confidence_max", self.confidence_max, "0 to 1")
        _check(self.bytes_per_day_max >= 1, "bytes_per_day_max", self.bytes_per_day_max, "above 0")
        _check(1 <= self.gather_s <= 3_600, "gather_s", self.gather_s, "1 to 3600 seconds")
        _check(bool(self.key_file), "key_file", self.key_file, "the name of a file")

    @property
    def is_hashing(self) -> bool:
        """Whether a key is needed."""
        rules = (rule for features in self.models.values() for rule in features.values())
        return any(rule.redaction is Redaction.HASH for rule in rules)

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> "RowSettings":
        """Read the section as it stands in the file; raises SettingsError."""
        known = [one.name for one in fields(cls)]
        for name in section:
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}; known are {', '.join(known)}")
        values = dict(section)
        for name in ("share", "confidence_max", "gather_s"):
            if name in values:
                value = values[name]
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                _check(is_number, name, value, "a number")
        whole = values.get("bytes_per_day_max", 1)
        is_whole = isinstance(whole, int) and not isinstance(whole, bool)
        _check(is_whole, "bytes_per_day_max", whole, "a whole number")
        _check(isinstance(values.get("key_file", ""), str), "key_file", values, "a text")
        values["models"] = _read_models(values.get("models", {}))
        return cls(**values)


def find_row_section(directory: Path) -> Mapping[str, Any] | None:
    """Return the section of ``agent.toml`` once it is known to be right; None without it.

    The key of hashes is made when one is needed and there is none.

    Raises:
        SettingsError: Names setting, value and range.
    """
    section = read_section(directory, SECTION)
    if section is None:
        return None
    try:
        settings = RowSettings.from_section(section)
        if settings.is_hashing:
            load_row_key(directory / settings.key_file)
    except SettingsError as error:
        raise SettingsError(f"{directory / FILE}, [{SECTION}]: {error}") from error
    return section


def settings_rows() -> list[str]:
    """Write the rows of the table in docs/agent.md."""
    from inspect import getdoc  # a megabyte with what it needs, and no agent writes this table

    told = dict(
        re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", getdoc(RowSettings) or "", re.MULTILINE)
    )
    rows = []
    for one in fields(RowSettings):
        default = "(none)" if one.name == "models" else json.dumps(one.default)
        meaning = " ".join(told[one.name].split()).replace("``", "`")
        rows.append(f"| `{one.name}` | {default} | {meaning} |")
    return rows


def _read_models(given: Any) -> Mapping[str, Mapping[str, FeatureRule]]:
    is_map = isinstance(given, dict) and all(isinstance(v, dict) for v in given.values())
    _check(is_map, "models", given, "a table of features for each model")
    _check(len(given) <= MODELS_MAX, "models", len(given), f"{MODELS_MAX} at most")
    found: dict[str, Mapping[str, FeatureRule]] = {}
    for model, features in given.items():
        _check(len(features) <= FEATURES_MAX, model, len(features), f"{FEATURES_MAX} features")
        rules = {name: _read_rule(model, name, v) for name, v in features.items()}
        found[model] = {name: rule for name, rule in rules.items() if rule is not None}
    return found


def _read_rule(model: str, feature: str, value: Any) -> FeatureRule | None:
    """Read ``keep``, ``hash``, ``round STEP``; None for ``drop``."""
    name = f"models.{model}.{feature}"
    is_name = not feature.startswith("_") and len(feature.encode()) <= NAME_BYTES_MAX
    _check(is_name, name, value, "a feature whose name does not begin with _")
    match value.split() if isinstance(value, str) else []:
        case ["keep"]:
            return FeatureRule(redaction=Redaction.KEEP)
        case ["hash"]:
            return FeatureRule(redaction=Redaction.HASH)
        case [word] if word == _DROP:
            return None
        case ["round", step]:
            return FeatureRule(redaction=Redaction.ROUND, step=_read_step(name, step))
    raise SettingsError(f"{name} must be keep, hash, drop or round STEP, got {value!r:.80}")


def _read_step(name: str, text: str) -> float:
    try:
        step = float(text)
    except ValueError:
        step = math.nan
    _check(math.isfinite(step) and step > 0, name, text, "round with a step above 0")
    return step


def _check(is_right: bool, name: str, value: object, allowed: str) -> None:  # noqa: FBT001 - a claim
    if not is_right:
        raise SettingsError(f"{name} must be {allowed}, got {value!r:.80}")
