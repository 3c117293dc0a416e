"""The versions of every ONNX operator, listed once for all graphs that skl2onnx writes.

skl2onnx goes through the whole history of ONNX anew for each graph, which is a quarter of the time
of a small one; the history is the same as long as the process lives. It looks whether a graph has
the table already, so the table is given to the class of its graphs. Where another version of
skl2onnx keeps it elsewhere, it makes its own as before.
"""

from collections import defaultdict
from functools import cache

import onnx


@cache
def share_operator_versions() -> None:
    """Give the table to every graph that skl2onnx writes in this process."""
    from skl2onnx.common._container import ModelComponentContainer

    versions = defaultdict[tuple[str, str], set[int]](set)
    for schema in onnx.defs.get_all_schemas_with_history():
        versions[schema.domain, schema.name].add(schema.since_version)
    table = {operator: sorted(known) for operator, known in versions.items()}
    ModelComponentContainer._op_versions = table  # noqa: SLF001 - it has no other place for it
