"""What one answer consists of: a single class or value, or several targets or labels by name.

Late labels, live accuracy and sampled rows tell each part by itself, on both sides of the wire.
"""

from typing import NamedTuple

from edge_agent.contract.schema import ModelSchema


class AnswerPart(NamedTuple):
    """One class or value of an answer.

    Attributes:
        name: Of the target or label; empty where an answer is this alone.
        classes: Names by index; a value has none.
    """

    name: str = ""
    classes: tuple[str, ...] = ()

    @property
    def is_class(self) -> bool:
        """Whether it is a class, not a value."""
        return bool(self.classes)


def parts_of(schema: ModelSchema) -> tuple[AnswerPart, ...]:
    """Return the parts of a package's answers, in the order of its schema; one at least."""
    if schema.labels:
        return tuple(AnswerPart(label.name, label.classes) for label in schema.labels)
    named = tuple(AnswerPart(name) for name in schema.targets)
    return named or (AnswerPart("", schema.classes),)
