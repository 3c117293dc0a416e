"""What a package asks of a device, as its evidence says. Pure.

Packages of older builders carry less: what is not there is not needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from device_profiles.profile import Precision

OPERATORS_MAX = 512
OPERATOR_CHARS_MAX = 128
VERSION_MAX = 1_000
BYTES_MAX = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageNeeds:
    """What one package asks of a device.

    Attributes:
        ir: ONNX file format of the graph.
        opset: Operator set of domain ``ai.onnx``, 0 when the graph uses none.
        opset_ml: Operator set of domain ``ai.onnx.ml``, 0 when the graph uses none.
        precision: Of the shipped graph.
        package_bytes: Size of the package.
        operators: Operators of the graph, ``Gemm`` or ``DOMAIN:NAME``, each with the version of
            its definition that the graph's operator set means; 0 when unknown.
        rss_bytes: Peak memory of a process that served it, as measured by the builder; None when
            it was not.
        is_full_range: Whether int8 weights use all 8 bits, which only processors with dot
            products of bytes answer alike.
    """

    ir: int
    opset: int
    opset_ml: int
    precision: Precision
    package_bytes: int
    operators: Mapping[str, int] = field(default_factory=dict)
    rss_bytes: int | None = None
    is_full_range: bool = False

    @classmethod
    def from_evidence(cls, evidence: Mapping[str, Any], *, package_bytes: int) -> "PackageNeeds":
        """Read what ``evidence.json`` says.

        Args:
            evidence: The decoded file; not trusted.
            package_bytes: Size of the package.

        Raises:
            ValueError: What every package must say is missing or wrong; names it.
        """
        graph = evidence.get("graph")
        if not isinstance(graph, Mapping):
            raise ValueError("evidence: graph must be an object")  # noqa: TRY004 - its callers' word
        further = evidence.get("needs")
        further = further if isinstance(further, Mapping) else {}
        rss_bytes = further.get("rss_bytes")
        return cls(
            ir=_version(graph, "ir"),
            opset=_version(graph, "opset"),
            opset_ml=_version(graph, "opset_ml"),
            precision=Precision(str(evidence.get("precision"))),
            package_bytes=package_bytes,
            operators=_operators(further.get("operators"), graph.get("operators")),
            rss_bytes=rss_bytes if _is_count(rss_bytes, BYTES_MAX) else None,
            is_full_range=further.get("is_full_range") is True,
        )

    def describe(self) -> dict[str, Any]:
        """Give the ``needs`` of an ``evidence.json``: what its ``graph`` does not say."""
        described: dict[str, Any] = {"operators": dict(sorted(self.operators.items()))}
        if self.rss_bytes is not None:
            described["rss_bytes"] = self.rss_bytes
        if self.is_full_range:
            described["is_full_range"] = True
        return described


def _operators(said: Any, counted: Any) -> dict[str, int]:
    """Take versions where they are told, else the names of the operators that were counted."""
    source = said if isinstance(said, Mapping) else counted
    if not isinstance(source, Mapping) or len(source) > OPERATORS_MAX:
        return {}
    is_versioned = source is said
    return {
        name: version if is_versioned else 0
        for name, version in source.items()
        if isinstance(name, str)
        and 0 < len(name) <= OPERATOR_CHARS_MAX
        and (not is_versioned or _is_count(version, VERSION_MAX))
    }


def _version(graph: Mapping[str, Any], name: str) -> int:
    value = graph.get(name)
    if not _is_count(value, VERSION_MAX):
        raise ValueError(f"evidence: graph.{name} must be an integer, got {value!r:.40}")
    return int(value)  # type: ignore[arg-type]  # checked above


def _is_count(value: Any, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high
