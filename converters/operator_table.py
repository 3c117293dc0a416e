"""Look ONNX's operator versions up once a process, not once a conversion.

skl2onnx gathers every version of every operator anew for each graph it writes, which is most of
the time a small model takes. The table depends on the installed onnx only, so it is made once and
handed to the class that would build it; it is built as before where that class has changed.
"""

from functools import cache

from onnx.defs import get_all_schemas_with_history

Table = dict[tuple[str, str], list[int]]


@cache
def read_operator_table() -> Table:
    """Give the versions of each operator, oldest first, by domain and name."""
    versions: dict[tuple[str, str], set[int]] = {}
    for schema in get_all_schemas_with_history():
        versions.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    return {key: sorted(found) for key, found in versions.items()}


def share_operator_table() -> bool:
    """Give skl2onnx the table of this process; returns whether it will use it."""
    from skl2onnx.common._container import ModelComponentContainer

    if not hasattr(ModelComponentContainer, "_build_op_version"):
        return False
    ModelComponentContainer._op_versions = read_operator_table()  # noqa: SLF001 - see above
    return True
