"""Write a graph by filling a fitted model's numbers into one that was converted in full.

Two models of one architecture convert to the same graph but for its numbers. Which number of the
graph is which fitted attribute is not written down here: it is found by comparing full conversions
of several members with their attributes, bit for bit, and believed only if it gives the exact bytes
of the full conversion of every one of them. A member whose architecture differs (another number
of columns, classes or layers, another parameter) is not rendered: convert it in full. Steps that
write what they learned in any other way than as such numbers (the columns a selector kept, the
categories of an encoder, edges of bins) have no template: members could agree on it by chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto
from sklearn.pipeline import Pipeline

from converters.families.attribute_bytes import write_choices, write_floats, write_ints
from converters.families.tree_attributes import read_tree_attributes
from converters.graph import ML_DOMAIN

Array = NDArray[Any]
MEMBERS_MIN = 2
"""Fewer do not tell a number that varies from one that does not."""
_WRITTEN = ("nodes_", "target_", "class", "base_values")
_CLASS_NAMES = "classlabels_int64s"
_NUMERIC = (
    "sklearn.decomposition._pca",
    "sklearn.ensemble._forest",
    "sklearn.ensemble._gb",
    "sklearn.ensemble._hist_gradient_boosting.",
    "sklearn.linear_model.",
    "sklearn.neural_network.",
    "sklearn.preprocessing._data",
    "sklearn.tree.",
)
"""Modules of the steps whose graphs differ between members in fitted floats and trees alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where numbers stand in the graph: an attribute of a node, or an initializer."""

    position: int
    attribute: str


class GraphTemplate:
    """One converted graph and what its numbers are; see ``find_template``."""

    def __init__(
        self, model: bytes, architecture: str, sources: Mapping[_Place, tuple[str, ...]]
    ) -> None:
        self._model = ModelProto.FromString(model)
        self.architecture = architecture
        self._sources = dict(sources)
        self._trees = _find_tree_node(self._model)

    def render(self, prepared: Any) -> bytes | None:
        """Give the graph of another fitted model.

        Args:
            prepared: Estimator or pipeline, repaired as for a full conversion.

        Returns:
            Bytes of the normalised graph; None when its architecture is another, or when what
            was the same in every member compared (a scale and one over the range, say) is not
            the same in this one.
        """
        if describe_architecture(prepared) != self.architecture:
            return None
        numbers = read_numbers(prepared) if self._sources else {}
        for place, sources in self._sources.items():
            first, *others = (numbers[source]() for source in sources)
            if any(other.tobytes() != first.tobytes() for other in others):
                return None
            _write(self._model, place, first)
        if self._trees is not None:
            attributes = read_tree_attributes(_last_step(prepared))
            if attributes is None or not _write_trees(self._trees, attributes):
                return None
        return self._model.SerializeToString(deterministic=True)


def find_template(members: Sequence[tuple[Any, bytes]]) -> GraphTemplate | None:
    """Find what the numbers of a graph are.

    Args:
        members: Prepared estimators with the bytes of their full conversions; two or more.

    Returns:
        A template that gives exactly those bytes for each of them; None when there is none.
    """
    if len(members) < MEMBERS_MIN or not _is_numeric(members[0][0]):
        return None
    architectures = {describe_architecture(prepared) for prepared, _ in members}
    if len(architectures) != 1:
        return None
    graphs = [ModelProto.FromString(model) for _, model in members]
    numbers = [
        {name: read() for name, read in read_numbers(prepared).items()} for prepared, _ in members
    ]
    sources = _match(numbers, graphs)
    if sources is None:
        return None
    template = GraphTemplate(members[0][1], architectures.pop(), sources)
    if any(template.render(prepared) != model for prepared, model in members):
        return None
    return template


def say_why_none(prepared: Any) -> str:
    """Say why members such as this one have no template.

    >>> say_why_none(Pipeline([("step", object())]))
    'object learns what cannot be filled in'
    """
    strange = [step for step in _steps(prepared) if not _is_numeric(step)]
    if strange:
        return f"{type(strange[0]).__name__} learns what cannot be filled in"
    return "not every number of the graph was found in what was fitted"


def describe_architecture(prepared: Any) -> str:
    """Name everything but the numbers: classes, parameters, shapes of what was fitted."""
    return repr([_describe(step) for step in _steps(prepared)])


def read_numbers(prepared: Any) -> dict[str, Callable[[], Array]]:
    """Give every fitted number in the forms exporters write it, by name; float32 when called."""
    found: dict[str, Callable[[], Array]] = {}
    for position, step in enumerate(_steps(prepared)):
        for name, value in _fitted(step):
            forms = _FORMS if value.ndim == 2 else _FLAT_FORMS
            for form, write in forms.items():
                found[form.format(f"{position}.{name}")] = partial(write, value)
    return found


def _one_over(value: Array) -> Array:
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Array = (1.0 / value).astype(np.float32)
    return inverse.ravel()


def _both_signs(value: Array) -> Array:
    flat = value.astype(np.float32).ravel()
    return np.concatenate([-flat, flat])


_FLAT_FORMS: Mapping[str, Callable[[Array], Array]] = {
    "{}": lambda value: value.astype(np.float32).ravel(),
    "1 / {}": _one_over,
    "both signs of {}": _both_signs,
}
_FORMS: Mapping[str, Callable[[Array], Array]] = {
    **_FLAT_FORMS,
    "{} transposed": lambda value: value.T.astype(np.float32).ravel(),
}


def _describe(step: Any) -> list[Any]:
    kind: Any = type(step)
    params = {name: repr(getattr(step, name)) for name in _name_params(kind)}
    is_ensemble = _is_ensemble(step)
    shapes = {
        name: (value.shape, value.dtype.str) for name, value in _fitted(step) if not is_ensemble
    }
    classes = [str(value) for value in getattr(step, "classes_", ())]
    width = int(getattr(step, "n_features_in_", 0))
    return [type(step).__module__, type(step).__name__, params, shapes, classes, width]


@cache
def _name_params(kind: Any) -> tuple[str, ...]:
    """Name the parameters of a class; scikit-learn reads its signature at every call."""
    return tuple(kind._get_param_names())  # noqa: SLF001 - what ``get_params`` itself reads


def _is_numeric(prepared: Any) -> bool:
    return all(type(step).__module__.startswith(_NUMERIC) for step in _steps(prepared))


def _is_ensemble(step: Any) -> bool:
    return hasattr(step, "estimators_") or hasattr(step, "_predictors")


def _fitted(step: Any) -> Iterator[tuple[str, Array]]:
    """Give the fitted numbers of a step; lists of arrays one by one."""
    for name, value in sorted(vars(step).items()):
        if not name.endswith("_") or name.startswith("_"):
            continue
        if isinstance(value, list):
            for number, inner in enumerate(value):
                if isinstance(inner, np.ndarray) and inner.dtype.kind == "f":
                    yield f"{name}[{number}]", inner
        elif isinstance(value, np.ndarray | np.floating | float):
            numbers = np.asarray(value)
            if numbers.dtype.kind == "f":
                yield name, numbers


def _steps(prepared: Any) -> list[Any]:
    if not isinstance(prepared, Pipeline):
        return [prepared]
    return [
        inner
        for _, step in prepared.steps
        if step not in (None, "passthrough")
        for inner in _steps(step)
    ]


def _last_step(prepared: Any) -> Any:
    return _steps(prepared)[-1]


def _match(
    numbers: Sequence[Mapping[str, Array]], graphs: Sequence[ModelProto]
) -> dict[_Place, tuple[str, ...]] | None:
    """Name every source each float place may have; one that varies without any ends the search."""
    places = [dict(_float_places(graph)) for graph in graphs]
    if any(found.keys() != places[0].keys() for found in places):
        return None
    names = [name for name in numbers[0] if all(name in own for own in numbers)]
    sources: dict[_Place, tuple[str, ...]] = {}
    for place in places[0]:
        held = [found[place] for found in places]
        found_in = tuple(n for n in names if _is_same(held, [own[n] for own in numbers]))
        if found_in:
            sources[place] = found_in
        elif not _is_same(held, [held[0]] * len(held)):
            return None
    return sources


def _is_same(left: Sequence[Array], right: Sequence[Array]) -> bool:
    return all(
        len(a) == len(b) and a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True)
    )


def _float_places(model: ModelProto) -> Iterator[tuple[_Place, Array]]:
    for position, node in enumerate(model.graph.node):
        if _is_trees(node):
            continue
        for attribute in node.attribute:
            if attribute.type == AttributeProto.FLOATS:
                place = _Place(position=position, attribute=attribute.name)
                yield place, np.array(attribute.floats, np.float32)
    for position, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            place = _Place(position=position, attribute="")
            yield place, onnx.numpy_helper.to_array(tensor).astype(np.float32).ravel()


def _write(model: ModelProto, place: _Place, values: Array) -> None:
    if place.attribute:
        node = model.graph.node[place.position]
        found = next(a for a in node.attribute if a.name == place.attribute)
        write_floats(found, values)
        return
    tensor = model.graph.initializer[place.position]
    if tensor.HasField("raw_data"):
        tensor.raw_data = values.astype("<f4").tobytes()
    else:
        del tensor.float_data[:]
        tensor.float_data.extend(values.tolist())


def _is_trees(node: NodeProto) -> bool:
    return node.domain == ML_DOMAIN and node.op_type.startswith("TreeEnsemble")


def _find_tree_node(model: ModelProto) -> NodeProto | None:
    found = [node for node in model.graph.node if _is_trees(node)]
    return found[0] if len(found) == 1 else None


def _write_trees(node: NodeProto, attributes: Mapping[str, Array]) -> bool:
    """Put the attributes in the place of the template's; False where it has others."""
    old = {a.name for a in node.attribute if a.name.startswith(_WRITTEN)} - {_CLASS_NAMES}
    if old != attributes.keys():
        return False
    for attribute in node.attribute:
        if attribute.name in attributes:
            _fill(attribute, attributes[attribute.name])
    return True


def _fill(attribute: AttributeProto, values: Array) -> None:
    if attribute.name == "nodes_modes":
        write_choices(attribute, values, b"LEAF", b"BRANCH_LEQ")
    elif values.dtype == np.float32:
        write_floats(attribute, values)
    else:
        write_ints(attribute, values)
