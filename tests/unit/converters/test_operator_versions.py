"""The shared table of operator versions is the one that skl2onnx would make for a graph."""

from skl2onnx.common._container import ModelComponentContainer

from converters.operator_versions import share_operator_versions


def test_the_shared_table_is_what_a_graph_would_make_for_itself() -> None:
    share_operator_versions()
    graph = ModelComponentContainer.__new__(ModelComponentContainer)
    shared = graph._op_versions
    graph._build_op_version()
    assert graph._op_versions is not shared
    assert graph._op_versions == shared
