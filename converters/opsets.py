"""Bring a graph to the operator sets of a profile, or tell which operator stands against it.

A newer operator set is lowered in this order: where no operator of the graph changed between the
two, only the number is written anew; what has no older definition but is a composition of others
(Gelu, Mish, Swish) is written out as those; the rest is onnx's version converter's, but for
operators of which it knows no way down and whose definition only took in more. It does not know
``ai.onnx.ml``: there a node stays as it is where the older definition says the same of it.

Nothing here is proof: whoever calls compares the answers with those of the graph as it was.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import ModelProto

from converters.errors import InvalidRequestError, ProfileMisfitError
from converters.graph import (
    ML_DOMAIN,
    count_operators,
    find_opset,
    iterate_graphs,
    iterate_nodes,
    replace_opset,
)
from converters.lowering_plan import (
    WIDENED,
    LoweringPlan,
    find_strange,
    must_be_written_out,
    plan_lowering,
)
from converters.needs import find_operators
from converters.normalise import IR_MIN, find_oldest_ir, name_domains
from converters.operator_table import read_operator_table
from device_profiles.compatibility import Misfit
from device_profiles.profile import DeviceProfile

RAISED_BELOW = 13
"""Older operator sets are raised to this one: the first that quantizes with a scale a channel."""
_ROUNDS_MAX = 8
_NO_ADAPTER = re.compile(r"No Adapter (?:(?:From|To) Version \$?(\d+) )?[Ff]or (\w+)")
_HIDDEN = "edgefleet.hidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A graph in other operator sets.

    Attributes:
        model: The graph; the given one when nothing had to be done.
        change: What was done; empty when nothing.
    """

    model: ModelProto
    change: str = ""


def is_within(model: ModelProto, profile: DeviceProfile) -> bool:
    """Tell whether a graph imports no newer operator set than a profile allows."""
    newest = max(find_opset(model, ""), find_opset(model, "ai.onnx"))
    return newest <= profile.opset_max and find_opset(model, ML_DOMAIN) <= profile.opset_ml_max


def bring_down(model: ModelProto, profile: DeviceProfile) -> Brought:
    """Lower a graph to the operator sets of a profile; the model itself is left alone.

    Raises:
        ProfileMisfitError: An operator of it cannot be lowered; names operator and version.
        InvalidRequestError: The graph is not sound.
    """
    if is_within(model, profile):
        return Brought(model=model)
    plan = plan_graph(model, profile)
    lowered = _copy(model)
    if find_opset(lowered, ML_DOMAIN) > profile.opset_ml_max:
        _lower_ml(lowered, profile)
    if find_opset(lowered, "") > profile.opset_max:
        lowered = _lower(lowered, profile)
    return Brought(model=lowered, change=plan.sentence)


def plan_graph(model: ModelProto, profile: DeviceProfile) -> LoweringPlan:
    """Plan how a graph comes to the operator sets of a profile.

    Raises:
        ProfileMisfitError: An operator of it stands against that.
    """
    opsets = {domain: find_opset(model, domain) for domain in ("", ML_DOMAIN)}
    opsets[""] = max(opsets[""], find_opset(model, "ai.onnx"))
    plan = plan_lowering(list(count_operators(model)), opsets, profile)
    if plan.obstacles:
        raise ProfileMisfitError(profile.id, plan.obstacles)
    return plan


def bring_up(model: ModelProto, version: int) -> ModelProto:
    """Raise a graph to a newer operator set; the model itself is left alone.

    Raises:
        InvalidRequestError: onnx knows no way up.
    """
    raised = _copy(model)
    raised.ir_version = max(raised.ir_version, IR_MIN)
    opset = find_opset(raised, "")
    return _call_converter(
        raised,
        version,
        lambda reason: InvalidRequestError(
            f"operator set {opset} cannot be raised to {version}: {reason}"
        ),
    )


def restate(model: ModelProto) -> ModelProto:
    """Give the same graph with the oldest operator sets and file format that mean the same.

    A runtime that does not know a number may know everything the graph is made of.
    """
    same = _copy(model)
    opsets = {domain: find_opset(same, domain) for domain in ("", ML_DOMAIN)}
    oldest = dict.fromkeys(opsets, 1)
    for name, since in find_operators(count_operators(same), opsets).items():
        domain = name.rpartition(":")[0]
        if domain in oldest:
            oldest[domain] = max(oldest[domain], since)
    for domain, version in opsets.items():
        if version:
            replace_opset(same, domain, oldest[domain])
    same.ir_version = find_oldest_ir({entry.domain: entry.version for entry in same.opset_import})
    return same


def _copy(model: ModelProto) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(model)
    name_domains(copied)
    for domain in ("", ML_DOMAIN):
        replace_opset(copied, domain, find_opset(copied, domain))
    return copied


def _lower_ml(model: ModelProto, profile: DeviceProfile) -> None:
    """Write the older number where every node means the same under it."""
    version = find_opset(model, ML_DOMAIN)
    for node in iterate_nodes(model):
        if node.domain != ML_DOMAIN:
            continue
        for step in read_operator_table()[(ML_DOMAIN, node.op_type)]:
            if not profile.opset_ml_max < step <= version:
                continue
            if strange := find_strange(node, step - 1):
                reason = f"{node.op_type} uses {strange}, which operator set {step} brought"
                raise _misfit(profile, "opset_ml_max", version, reason)
    replace_opset(model, ML_DOMAIN, profile.opset_ml_max)


def _lower(model: ModelProto, profile: DeviceProfile) -> ModelProto:
    version, limit = find_opset(model, ""), profile.opset_max

    def refuse(reason: str) -> ProfileMisfitError:
        return _misfit(profile, "opset_max", version, reason)

    model = _write_out(model, limit, refuse)
    for stop in _find_stops(model, limit):
        model = _convert(model, stop, refuse)
        with _hidden(model, stop, refuse):
            model.CopyFrom(_convert(model, stop - 1, refuse))
    model = _convert(model, limit, refuse)
    for node in iterate_nodes(model):
        if not node.domain and (strange := find_strange(node, limit)):
            raise refuse(f"{node.op_type} uses {strange}, which operator set {limit} lacks")
    return model


def _write_out(
    model: ModelProto, limit: int, refuse: Callable[[str], ProfileMisfitError]
) -> ModelProto:
    """Write operators without an older definition out as the operators they are made of."""
    for _ in range(_ROUNDS_MAX):
        names = sorted(
            name
            for name, since in _find_since(model).items()
            if since > limit and must_be_written_out(name, since, limit)
        )
        if not names:
            return model
        before = set(names)
        _write_defaults(model, before)
        _declare_constants(model)
        try:
            model = onnx.inliner.inline_selected_functions(
                model, [("", name) for name in names], inline_schema_functions=True
            )
        except Exception as error:  # its binding raises undeclared classes
            raise refuse(f"{', '.join(names)} cannot be written out: {_reason(error)}") from error
        left = sorted(before & set(_find_since(model)))
        if left:
            raise refuse(f"{', '.join(left)} cannot be written out as other operators")
    raise refuse(f"operators are written out as others more than {_ROUNDS_MAX} times")


def _write_defaults(model: ModelProto, names: set[str]) -> None:
    """Write attributes that were left to their default: the inliner forgets those."""
    version = find_opset(model, "")
    for node in iterate_nodes(model):
        if node.domain or node.op_type not in names:
            continue
        written = {attribute.name for attribute in node.attribute}
        schema = onnx.defs.get_schema(node.op_type, version, "")
        for name, attribute in schema.attributes.items():
            if name not in written and attribute.default_value.name:
                node.attribute.append(attribute.default_value)


def _declare_constants(model: ModelProto) -> None:
    """Declare the types of constants: what some operators are made of depends on them."""
    for graph in iterate_graphs(model.graph):
        known = {value.name for value in (*graph.input, *graph.value_info)}
        graph.value_info.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in graph.initializer
            if tensor.name not in known
        )


def _find_since(model: ModelProto) -> dict[str, int]:
    """Give the version of the definition of each operator of ``ai.onnx``."""
    found = find_operators(count_operators(model), {"": find_opset(model, "")})
    return {name: since for name, since in found.items() if ":" not in name}


def _find_stops(model: ModelProto, limit: int) -> list[int]:
    """Give the operator sets, newest first, below which onnx's converter does not get."""
    return sorted(
        {
            step
            for name, since in _find_since(model).items()
            for step in read_operator_table().get(("", name), ())
            if limit < step <= since and ("", name, step) in WIDENED
        },
        reverse=True,
    )


@contextmanager
def _hidden(
    model: ModelProto, version: int, refuse: Callable[[str], ProfileMisfitError]
) -> Iterator[None]:
    """Keep the converter from nodes that stay as they are at this step."""
    for node in iterate_nodes(model):
        if not node.domain and ("", node.op_type, version) in WIDENED:
            if strange := find_strange(node, version - 1):
                raise refuse(f"{node.op_type} uses {strange}, which operator set {version} brought")
            node.domain = _HIDDEN
    replace_opset(model, _HIDDEN, 1)
    yield
    for node in iterate_nodes(model):
        if node.domain == _HIDDEN:
            node.domain = ""
    replace_opset(model, _HIDDEN, 0)


def _convert(
    model: ModelProto, version: int, refuse: Callable[[str], ProfileMisfitError]
) -> ModelProto:
    if find_opset(model, "") <= version:
        return model
    if max(_find_since(model).values(), default=0) <= version:
        replace_opset(model, "", version)
        return model
    return _call_converter(model, version, refuse)


def _call_converter(
    model: ModelProto, version: int, refuse: Callable[[str], Exception]
) -> ModelProto:
    try:
        return onnx.version_converter.convert_version(model, version)
    except Exception as error:  # its binding raises undeclared classes
        raise refuse(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Take the sentence out of an assertion of onnx, without the path of its source file.

    >>> _reason(RuntimeError("/p/a.h:3: f: Assertion `false` failed: No Adapter For X"))
    'onnx knows no way to convert X'
    """
    reason = str(error).rpartition("` failed: ")[2].strip().rstrip(".")[:300]
    if found := _NO_ADAPTER.match(reason):
        version = f" {found[1]}" if found[1] else ""
        return f"onnx knows no way to convert {found[2]}{version}"
    return reason


def _misfit(profile: DeviceProfile, field: str, version: int, reason: str) -> ProfileMisfitError:
    limit = profile.opset_max if field == "opset_max" else profile.opset_ml_max
    need = f"{version}: {reason}"
    return ProfileMisfitError(profile.id, [Misfit(field=field, need=need, have=f"at most {limit}")])
