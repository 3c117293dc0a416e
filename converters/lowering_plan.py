"""Tell from the operators of a graph how it comes to the operator sets of a profile. Pure.

Nothing is converted here and no graph needed, only the names of its operators and the operator sets
it imports; ``opsets.py`` does what is planned. What a plan promises is tried and compared when a
package is built; what it calls an obstacle would fail there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
import onnx.defs
from onnx import NodeProto

from converters.graph import ML_DOMAIN
from converters.needs import find_operators
from converters.operator_table import read_operator_table
from device_profiles.compatibility import Misfit
from device_profiles.profile import DeviceProfile

NAMED_MAX = 6
"""Operators named in a sentence."""
WIDENED = frozenset(
    {
        *(("", name, 22) for name in ("GlobalMaxPool",)),
        *(("", name, 20) for name in ("ConstantOfShape",)),
        *(("", name, 18) for name in ("LpPool", "Pad", "Split")),
        *(("", name, 16) for name in ("Identity",)),
        *(("", name, 15) for name in ("BatchNormalization", "Pow", "Shape")),
        *(("", name, 14) for name in ("Add", "CumSum", "Div", "Identity", "Mul", "Relu")),
        *(("", name, 14) for name in ("Reshape", "Sub")),
        (ML_DOMAIN, "LabelEncoder", 4),
        *((ML_DOMAIN, f"TreeEnsemble{kind}", 5) for kind in ("Classifier", "Regressor")),
        *((ML_DOMAIN, f"TreeEnsemble{kind}", 3) for kind in ("Classifier", "Regressor")),
    }
)
"""Definitions that only took in types, inputs or attributes, and of which onnx's converter knows no
way down: a node without these means the same under the definition before."""
NO_WAY = frozenset(
    {
        *(("", "BatchNormalization", 14), ("", "GridSample", 20), ("", "GroupNormalization", 21)),
        *(("", "RoiAlign", 16), (ML_DOMAIN, "LabelEncoder", 2)),
    }
)
"""Definitions that mean something else than those before, with no way down known to onnx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringPlan:
    """How a graph comes to older operator sets.

    Attributes:
        opsets: Operator sets by domain as they will be.
        changed: Operators whose definition changed, ``Cast 21``.
        written_out: Those among them that become compositions of others.
        obstacles: What cannot be lowered; nothing is done when there is one.
        sentence: What is done.
    """

    opsets: Mapping[str, int]
    changed: tuple[str, ...] = ()
    written_out: tuple[str, ...] = ()
    obstacles: tuple[Misfit, ...] = ()
    sentence: str = ""


def plan_lowering(
    names: Sequence[str], opsets: Mapping[str, int], profile: DeviceProfile
) -> LoweringPlan:
    """Plan the way to the operator sets of a profile; what is not above them stays.

    Args:
        names: Operators, ``Gemm`` or ``DOMAIN:NAME``.
        opsets: Imported version by domain, ``ai.onnx`` being empty.
        profile: Its limits are kept.

    >>> from device_profiles.catalog import load_profile
    >>> plan_lowering(["Cast", "Gelu"], {"": 21}, load_profile("camera")).sentence
    'operator set 21 lowered to 18: Cast 21, Gelu 20 (written out as others)'
    """
    limits = (
        ("", "opset_max", profile.opset_max),
        (ML_DOMAIN, "opset_ml_max", profile.opset_ml_max),
    )
    found = dict(opsets)
    changed: list[str] = []
    written_out: list[str] = []
    obstacles: list[Misfit] = []
    sentences: list[str] = []
    versions = find_operators(dict.fromkeys(names, 1), opsets)
    for domain, field, limit in limits:
        version = opsets.get(domain, 0)
        if version <= limit:
            continue
        own = {
            name: since
            for name, since in versions.items()
            if name.rpartition(":")[0] == domain and since > limit
        }
        reasons = _find_reasons(own, domain, version, limit)
        if reasons:
            need = f"{version}: {'; '.join(reasons[:NAMED_MAX])}"
            obstacles.append(Misfit(field=field, need=need, have=f"at most {limit}"))
            continue
        found[domain] = limit
        out = [
            name
            for name, since in own.items()
            if not domain and must_be_written_out(name, since, limit)
        ]
        changed += [f"{name} {since}" for name, since in own.items()]
        written_out += out
        sentences.append(_say(domain, version, limit, own, out))
    return LoweringPlan(
        opsets=found,
        changed=tuple(changed),
        written_out=tuple(written_out),
        obstacles=tuple(obstacles),
        sentence="; ".join(sentences),
    )


def must_be_written_out(name: str, since: int, limit: int) -> bool:
    """Tell whether an operator of ``ai.onnx`` has no definition to go down to."""
    history = read_operator_table()[("", name)]
    return history[0] > limit or any(
        ("", name, version) in NO_WAY for version in history if limit < version <= since
    )


def find_strange(node: NodeProto, version: int) -> str:
    """Name what a node has that its definition in an operator set does not know; empty if nothing.

    Args:
        node: Of an operator that the operator set defines.
        version: The operator set.
    """
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    strange = sorted({attribute.name for attribute in node.attribute} - set(schema.attributes))
    if strange:
        return ", ".join(strange)
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"{len(node.input)} inputs"
    if not schema.min_output <= len(node.output) <= schema.max_output:
        return f"{len(node.output)} outputs"
    return ""


def _find_reasons(own: Mapping[str, int], domain: str, version: int, limit: int) -> list[str]:
    known = onnx.defs.onnx_opset_version() if not domain else _ML_KNOWN
    if version > known:
        return [f"onnx {onnx.__version__}, which converts it here, knows operator sets to {known}"]
    reasons = []
    for full_name, since in own.items():
        name = full_name.rpartition(":")[2]
        history = read_operator_table()[(domain, name)]
        if domain:
            steps = [(domain, name, step) for step in history if limit < step <= since]
            if history[0] > limit or any(step not in WIDENED for step in steps):
                reasons.append(f"{full_name} {since} has no older definition that says the same")
        elif must_be_written_out(name, since, limit) and name not in _find_composed():
            reasons.append(f"{name} {since} has no older definition that says the same")
    return reasons


@cache
def _find_composed() -> frozenset[str]:
    """Name the operators that onnx defines by others."""
    return frozenset(schema.name for schema in onnx.defs.get_function_ops())


def _say(domain: str, version: int, limit: int, own: Mapping[str, int], out: Sequence[str]) -> str:
    what = f"operator set {version}{f' of {domain}' if domain else ''}"
    if not own:
        return f"{what} written as {limit}: no operator of the graph changed between them"
    words = [
        f"{name} {since}{' (written out as others)' if name in out else ''}"
        for name, since in sorted(own.items())
    ]
    more = f" and {len(words) - NAMED_MAX} more" if len(words) > NAMED_MAX else ""
    return f"{what} lowered to {limit}: {', '.join(words[:NAMED_MAX])}{more}"


_ML_KNOWN = max(
    version
    for (domain, _), found in read_operator_table().items()
    if domain == ML_DOMAIN
    for version in found
)
