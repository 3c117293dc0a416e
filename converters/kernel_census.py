"""Ask an onnxruntime which operators its CPU provider implements, and write the table of them.

``python -m converters.kernel_census`` prints what the runtime it finds implements, so that another
release is asked by putting it before this one on ``PYTHONPATH``; ``--write FILE...`` makes
``device_profiles/operator_kernels.py`` of several such answers. Needs nothing but onnxruntime.

The runtime's own registry of kernels is read. Some operators without a kernel are written as
others by the runtime: a graph of such an operator alone is loaded, and what the runtime then says
it has no implementation for is missing. Where it says something else (an attribute that this
module does not know is needed) the operator is listed, so that nobody refuses what may well run.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from device_profiles.onnx_bytes import FLOAT, Node, Value, write_model
from device_profiles.versions import parse_release

DOMAINS = ("", "ai.onnx.ml")
PROVIDER = "CPUExecutionProvider"
TABLE = Path(__file__).parents[1] / "device_profiles" / "operator_kernels.py"
_ANY_LATER = 2**31 - 1
_IR = 8
_LOG_FATAL = 4
_LINE_CHARS = 96
_MISSING = ("NOT_IMPLEMENTED", "ValidateOpset")
"""No kernel; or an operator set that this runtime only knows as a draft."""


def ask_runtime() -> dict[str, Any]:
    """Give release and, by operator, the versions of its definition that run."""
    import onnxruntime
    from onnxruntime.capi import _pybind_state as inside

    defined: dict[str, set[int]] = defaultdict(set)
    arity: dict[tuple[str, int], tuple[int, int]] = {}
    for schema in inside.get_all_operator_schema():
        if schema.domain in DOMAINS and not schema.deprecated:
            name = _name(schema.domain, schema.name)
            defined[name].add(schema.since_version)
            arity[name, schema.since_version] = (schema.min_input, schema.min_output)
    ranges: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for kernel in inside.get_all_opkernel_def():
        if kernel.domain in DOMAINS and kernel.provider == PROVIDER:
            ranges[_name(kernel.domain, kernel.op_name)].add(kernel.version_range)
    found = {}
    for name, versions in defined.items():
        runs = [
            version
            for version in sorted(versions)
            if any(_covers(each, version) for each in ranges[name])
            or (not ranges[name] and _loads(name, version, *arity[name, version]))
        ]
        if runs:
            found[name] = runs
    return {"onnxruntime": str(onnxruntime.__version__), "operators": dict(sorted(found.items()))}


def write_table(answers: Sequence[Mapping[str, Any]]) -> str:
    """Write the module: the oldest release in full, of each later one what differs."""
    ordered = sorted(answers, key=lambda answer: parse_release(answer["onnxruntime"]))
    releases: list[str] = []
    known: dict[str, list[int]] = {}
    for answer in ordered:
        operators = answer["operators"]
        changed = {name: of for name, of in operators.items() if known.get(name) != of}
        changed |= {name: [] for name in known if name not in operators}
        known = operators
        words = [f"{name}:{','.join(map(str, of))}" for name, of in sorted(changed.items())]
        lines = "\n".join(_fold(words))
        releases.append(f'    "{answer["onnxruntime"]}": """\n{lines}\n""",\n')
    return _MODULE.format(releases="".join(releases))


_MODULE = '''"""Operators that onnxruntime's CPU provider implements, by release. Generated.

Made by ``converters/kernel_census.py`` from the runtimes' own registries (x86-64 wheels). A word is
an operator and the versions of its definition that have a kernel; the first release is whole, a
later one lists what differs from the one before it.
"""

CPU: dict[str, str] = {{
{releases}}}
'''


def _covers(bounds: tuple[int, int], version: int) -> bool:
    """Tell whether a kernel serves a definition; an open end serves its own version only."""
    first, last = bounds
    return version == first or (last != _ANY_LATER and first < version <= last)


def _loads(name: str, version: int, inputs: int, outputs: int) -> bool:
    """Try a graph of one node: False when there is no kernel for it or for what it is made of."""
    import onnxruntime

    domain, _, operator = name.rpartition(":")
    taken = tuple(f"x{n}" for n in range(max(1, inputs)))
    given = tuple(f"y{n}" for n in range(max(1, outputs)))
    model = write_model(
        [Node(operator=operator, inputs=taken, outputs=given, domain=domain)],
        inputs=[Value(name=each, element=FLOAT, shape=(1, 4)) for each in taken],
        outputs=[Value(name=each, element=FLOAT, shape=None) for each in given],
        ir=_IR,
        opsets={"": version} if not domain else {"": 13, domain: version},
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    try:
        onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
    except Exception as error:  # noqa: BLE001 - its binding raises undeclared classes
        return not any(word in str(error) for word in _MISSING)
    return True


def _name(domain: str, operator: str) -> str:
    return f"{domain}:{operator}" if domain else operator


def _fold(words: Sequence[str]) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + 1 + len(word) > _LINE_CHARS:
            yield line
            line = ""
        line = f"{line} {word}".strip()
    if line:
        yield line


def main(arguments: Sequence[str]) -> int:
    """Print this runtime's answer, or write the table from files of such answers."""
    if arguments[:1] == ["--write"]:
        answers = [json.loads(Path(name).read_text()) for name in arguments[1:]]
        TABLE.write_text(write_table(answers))
    else:
        sys.stdout.write(json.dumps(ask_runtime(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
