"""A schema can say that its probabilities are the label and nothing more."""

import json

import pytest

from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

LABEL = Output(name="label", role=Role.LABEL)


def schema_of(probabilities: Output) -> ModelSchema:
    return ModelSchema(
        model="sorter",
        task=Task.CLASSIFICATION,
        features=(Feature(name="weight"),),
        outputs=(LABEL, probabilities),
        classes=("a", "b"),
    )


def test_it_survives_the_file_and_is_left_out_where_it_says_nothing() -> None:
    plain = schema_of(Output(name="probabilities", role=Role.PROBABILITIES))
    alone = schema_of(Output(name="probabilities", role=Role.PROBABILITIES, is_label_only=True))
    assert ModelSchema.decode(alone.encode()) == alone
    assert ModelSchema.decode(plain.encode()) == plain
    assert b"label_only" not in plain.encode()


def test_only_probabilities_can_say_it() -> None:
    with pytest.raises(MalformedError, match="only probabilities say is_label_only"):
        Output(name="label", role=Role.LABEL, is_label_only=True)
    fields = json.loads(schema_of(Output(name="probabilities", role=Role.PROBABILITIES)).encode())
    fields["outputs"][1]["label_only"] = "yes"
    with pytest.raises(ContractError, match="label_only must be true or false"):
        ModelSchema.decode(json.dumps(fields).encode())
