"""JSON of requests, read without trust: what is wrong is told by field, value and what is wanted.

A body's size is bounded before it comes here; its depth and the kinds of its values are here.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import InputError

_NUMBERS, _BOOLEANS = frozenset({int, float}), frozenset({bool})
_NESTED_MAX = 8
CONTAINERS_MAX = 262_144
"""Three bytes of a body can make a list of sixty-four, or an object of more."""
_NESTED_BYTES_MIN = 262_144


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for n, name in enumerate(names) if name in names[:n])
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
_decode_once = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice
).decode
encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def read_object(body: bytes) -> dict[str, Any]:
    """Read a body that must be a JSON object.

    Raises:
        InputError: It is not.
    """
    request = read_json(body)
    if not isinstance(request, dict):
        raise InputError(f"the body must be a JSON object, got {name_type(request)}")
    return request


def read_json(body: bytes, *, is_naming_once: bool = False) -> Any:
    """Read a body; NaN and infinity are no JSON. Raises InputError.

    Args:
        body: UTF-8.
        is_naming_once: Whether a name that is twice in an object is refused, instead of its last
            value taken.
    """
    if len(body) > _NESTED_BYTES_MIN and body.count(b"[") + body.count(b"{") > CONTAINERS_MAX:
        raise InputError(
            f"the body has more than {CONTAINERS_MAX} lists and objects, each of which takes a"
            " hundred bytes of memory; send flat lists, fewer rows, or raw bytes"
        )
    try:
        return (_decode_once if is_naming_once else _decode)(body.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from error


def read_plain_list(text: bytes) -> list[float] | None:
    """Read a JSON list of numbers and nothing else; None for anything else."""
    try:
        numbers = _decode(text.decode())
    except (ValueError, RecursionError):
        return None
    is_plain = isinstance(numbers, list) and set(map(type, numbers)) <= _NUMBERS
    return numbers if is_plain else None


def read_numbers(data: Any, kind: str) -> NDArray[Any]:
    """Read the numbers of ``inputs[0].data``, however nested.

    Args:
        data: What stands there.
        kind: ``f``, ``i``, ``u`` or ``b``: what the datatype declares.

    Raises:
        InputError: Not a list of such numbers.
    """
    if not isinstance(data, list):
        raise InputError(f"inputs[0].data must be a list of numbers, got {name_type(data)}")
    if not _holds_plain(data):
        raise _not_numbers(data)
    try:
        array = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"inputs[0].data is not an array of numbers: {error}") from error
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "b") != (kind == "b"):
        raise _not_numbers(data)
    if kind in "iu" and array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise InputError("inputs[0].data has fractions, its datatype is an integer's")
    if kind == "u" and array.size and array.min() < 0:
        raise InputError("inputs[0].data has negative numbers, its datatype is unsigned")
    return array


def _not_numbers(data: list[Any]) -> InputError:
    return InputError(
        "inputs[0].data must hold only numbers, or only booleans for BOOL"
        f" (found text, null, an object or an integer beyond 64 bits near {str(data[:3])[:60]})"
    )


def _holds_plain(data: list[Any], depth: int = 0) -> bool:
    """Tell whether a list holds numbers or booleans only, in lists no deeper than tensors go.

    numpy would give every place the width of the longest text: 8 MB of body, terabytes of memory.
    """
    kinds = set(map(type, data))
    if kinds <= _NUMBERS or kinds == _BOOLEANS:
        return True
    if kinds != {list} or depth == _NESTED_MAX:
        return False
    return all(_holds_plain(inner, depth + 1) for inner in data)


def read_flag(
    parameters: Mapping[str, Any], name: str, what: str, *, default: bool = False
) -> bool:
    """Read a boolean parameter; raises InputError."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name} of {what} must be a boolean, got {value!r:.40}")
    return value


def read_parameters(value: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Read the ``parameters`` of a request or tensor; raises InputError."""
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError(f"parameters of {what} must be an object, got {name_type(parameters)}")
    return parameters


def name_type(value: Any) -> str:
    """Name the kind of a JSON value for an error's sentence."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
