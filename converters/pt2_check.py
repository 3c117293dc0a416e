"""Check a file of ``torch.export.save`` before PyTorch sees it, and leave out what could run.

``torch.export.load`` unpickles sample inputs, constants and odd weights, looks operators up by any
dotted name under ``torch``, evaluates shape expressions and compiles guards from text: a file can
hold code in five places. So the archive is written anew from what is plain: weights and constants
as raw numbers, operators of ``torch.ops.aten``, expressions of arithmetic, names. What is only for
people (stack traces, sample inputs, guards) is left out, anything else refused. Standard library
only; whatever is left is still loaded in the child process with limits.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from converters.errors import InvalidRequestError
from converters.source_files import check_archive

JSON_BYTES_MAX = 67_108_864
DEPTH_MAX = 64
_PLAIN = re.compile(r"[A-Za-z0-9_.:+\-]{0,512}")
_ATEN = re.compile(r"torch\.ops\.aten\.[A-Za-z0-9_]{1,100}\.[A-Za-z0-9_]{1,100}")
_PYTHON = frozenset(
    f"_operator.{name}"
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "ge", "le", "eq", "gt")
)
_EXPRESSION = re.compile(r"[A-Za-z0-9_ +\-*/(),<>=']{0,512}")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYMBOL = re.compile(r"[suz][0-9]{1,9}")
_WORDS = frozenset(
    {
        *("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "FloorDiv", "CleanDiv"),
        *("CeilDiv", "PythonMod", "Max", "Min", "True", "False", "positive", "nonnegative"),
        *("negative", "integer", "real", "finite"),
    }
)
_SPEC_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_MODEL = "models/model.json"
_CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_[0-9]{1,9}"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_[0-9]{1,9}"),
}
_COPIED = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
    r"|data/weights/weight_[0-9]{1,9}|data/constants/tensor_[0-9]{1,9}"
)
_SAMPLES = "data/sample_inputs/model.pt"


def clean_program(content: bytes) -> bytes:
    """Give the archive with nothing in it but numbers, names and operators of ``aten``.

    Raises:
        InvalidRequestError: Not such an archive, or it holds anything else.
    """
    check_archive(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _by_name(archive)
            root, names = _strip_root(members)
            return _write(archive, root, names)
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, EOFError) as error:
        raise _refused(f"it is no sound archive: {error}") from error


def _by_name(archive: zipfile.ZipFile) -> list[str]:
    names = [member.filename for member in archive.infolist()]
    if len(set(names)) != len(names):
        raise _refused("a member is there twice")
    return names


def _strip_root(members: list[str]) -> tuple[str, list[str]]:
    roots = {name.partition("/")[0] for name in members}
    if len(roots) != 1:
        raise _refused("it was not written by torch.export.save")
    root = roots.pop()
    return root, [name[len(root) + 1 :] for name in members]


def _write(archive: zipfile.ZipFile, root: str, names: list[str]) -> bytes:
    missing = {_MODEL, *_CONFIGS, "archive_format"} - set(names)
    if missing:
        raise _refused(f"{sorted(missing)[0]} is missing: write it with torch.export.save")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as clean:
        for name in names:
            full = f"{root}/{name}"
            if name == _MODEL:
                document = json.loads(_read(archive, full))
                clean.writestr(full, json.dumps(_clean_model(document)))
            elif name in _CONFIGS:
                document = json.loads(_read(archive, full))
                _check_config(document, name)
                clean.writestr(full, json.dumps(document))
            elif name == _SAMPLES:
                clean.writestr(full, b"")
            elif _COPIED.fullmatch(name):
                clean.writestr(full, archive.read(full))
            else:
                raise _refused(f"member {name[:100]!r} is none of a plain program")
    return buffer.getvalue()


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > JSON_BYTES_MAX:
        raise _refused(f"{name[:100]} has {size} bytes, the limit is {JSON_BYTES_MAX}")
    return archive.read(name)


def _check_config(document: Any, name: str) -> None:
    if not isinstance(document, dict) or set(document) != {"config"}:
        raise _refused(f"{name} is no list of tensors")
    for tensor, entry in document["config"].items():
        if entry.get("use_pickle") is not False or not entry.get("tensor_meta"):
            raise _refused(f"tensor {tensor[:100]!r} is pickled; pickles are never read")
        if not _CONFIGS[name].fullmatch(str(entry.get("path_name"))):
            raise _refused(f"constant {tensor[:100]!r} is no plain tensor")
    _check_texts(document)


def _clean_model(document: Any) -> Any:
    module = document["graph_module"]
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
    module["metadata"], module["treespec_namedtuple_fields"] = {}, {}
    module["module_call_graph"] = module["module_call_graph"][:1]
    document["guards_code"] = []
    if module["graph"].get("custom_obj_values"):
        raise _refused("it holds objects of other kinds than tensors")
    _check_texts(document)
    return document


def _check_texts(document: Any) -> None:
    for key, text in _iterate_texts(document, "", 0):
        if key in ("target", "as_operator") and not _is_name_of_output(text):
            if not _ATEN.fullmatch(text) and text not in _PYTHON:
                raise _refused(f"operator {text[:100]!r} is none of torch.ops.aten")
        elif key == "expr_str":
            words = set(_WORD.findall(text))
            odd = sorted(w for w in words if not _SYMBOL.fullmatch(w) and w not in _WORDS)
            if not _EXPRESSION.fullmatch(text) or odd:
                raise _refused(f"shape {text[:100]!r} is no arithmetic")
        elif key in ("in_spec", "out_spec"):
            _check_spec(json.loads(text))
        elif not _PLAIN.fullmatch(text):
            raise _refused(f"{key or 'a name'} {text[:100]!r} is no plain name")


def _is_name_of_output(text: str) -> bool:
    """Tell the names that signatures call targets: of buffers, without dots into modules."""
    return not text.startswith(("torch", "_operator", "math", "#")) and bool(_PLAIN.fullmatch(text))


def _check_spec(spec: Any) -> None:
    for key, value in _iterate_texts(spec, "", 0):
        if key == "type" and value not in _SPEC_TYPES:
            raise _refused(f"an input of type {value[:100]!r}: needs plain tensors")
        if key == "context" and not re.fullmatch(r"null|\[[A-Za-z0-9_\", ]*\]", value):
            raise _refused(f"an input with the context {value[:100]!r}")


def _iterate_texts(value: Any, key: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > DEPTH_MAX:
        raise _refused(f"it nests deeper than {DEPTH_MAX}")
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield "", name
            yield from _iterate_texts(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _iterate_texts(inner, key, depth + 1)


def _refused(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the .pt2 file is refused: {why}")
