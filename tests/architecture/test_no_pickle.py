"""Nothing in the tree reads a pickle, and numpy is told each time that it must not."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *("device_profiles", "edge_agent", "converters", "fleet_server", "simulators"),
    *("benchmarks", "examples", "tests"),
)
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "torch"}
TORCH_USERS = {
    *("converters/from_torch.py", "converters/torch_archive.py", "tests/support/sweep_torch.py"),
    *("benchmarks/convert_delta.py", "fleet_server/training/cnn.py"),
}
"""May import torch, whose files are pickles; none may load one (``TORCH_LOADS``)."""
TORCH_LOADS = {"torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"}
CALLS = {
    *("joblib.load", "joblib.dump", "pandas.read_pickle", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "jsonpickle.decode", "multiprocessing.connection.Client"),
}
"""Ways to have an object made by whoever wrote the bytes."""
WORDS = MODULES | {
    *("joblib", "read_pickle", "yaml", "jsonpickle", "multiprocessing", "allow_pickle", "skops"),
    *("np.load", "numpy.load"),
}
"""Each fault has one in its text: what has none need not be parsed."""


def python_files() -> list[Path]:
    return sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


def parse_suspect(text: str) -> ast.AST:
    return ast.parse(text if any(word in text for word in WORDS) else "")


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def find_faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        elif isinstance(node, ast.Call):
            yield from find_call_faults(node)
            continue
        else:
            continue
        for name in names:
            if name.split(".")[0] in MODULES or name in CALLS:
                yield f"line {node.lineno}: imports {name}"


def find_call_faults(call: ast.Call) -> Iterator[str]:
    name = name_of(call.func)
    keywords = {word.arg: word.value for word in call.keywords}
    allow = keywords.get("allow_pickle")
    if name in CALLS | TORCH_LOADS:
        yield f"line {call.lineno}: calls {name}"
    if name == "torch.export.load" and "cleaned" not in ast.unparse(call):
        yield f"line {call.lineno}: {name} of what was not checked"
    if allow is not None and not (isinstance(allow, ast.Constant) and allow.value is False):
        yield f"line {call.lineno}: allow_pickle is not False"
    if name in ("np.load", "numpy.load") and allow is None:
        yield f"line {call.lineno}: {name} without allow_pickle=False"
    if name.endswith(("skops.io.loads", "skops.io.load")):
        trusted = keywords.get("trusted")
        if trusted is None or "ALLOWED_TYPES" not in ast.unparse(trusted):
            yield f"line {call.lineno}: {name} without our list of types"


def test_no_module_reads_a_pickle() -> None:
    faults = [
        f"{path.relative_to(ROOT)}, {fault}"
        for path in python_files()
        for fault in find_faults(parse_suspect(path.read_text()))
        if not (
            fault.endswith(" imports torch") and path.relative_to(ROOT).as_posix() in TORCH_USERS
        )
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import pickle", "imports pickle"),
        ("from pickle import loads", "imports pickle"),
        ("from joblib import load", "imports joblib.load"),
        ("joblib.load(p)", "calls joblib.load"),
        ("np.load(f)", "without allow_pickle=False"),
        ("np.load(f, allow_pickle=True)", "allow_pickle is not False"),
        ("read(f, allow_pickle=flag)", "allow_pickle is not False"),
        ("skops.io.loads(b, trusted=None)", "without our list"),
        ("import torch", "imports torch"),
        ("torch.load(f, weights_only=True)", "calls torch.load"),
        ("torch.export.load(f)", "what was not checked"),
    ],
)
def test_the_search_finds_what_it_looks_for(code: str, words: str) -> None:
    assert any(words in fault for fault in find_faults(parse_suspect(code)))
