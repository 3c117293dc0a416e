"""A schema names the several values of a row; a sound naming only."""

import json
from typing import Any

import pytest

from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.outputs import TARGETS_MAX
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task


def schema_of(*targets: str) -> ModelSchema:
    return ModelSchema(
        model="body",
        task=Task.REGRESSION,
        features=(Feature(name="chins"),),
        outputs=(Output(name="value", role=Role.VALUE, targets=targets),),
    )


def test_targets_survive_the_file_in_a_format_that_older_agents_refuse() -> None:
    schema = schema_of("weight", "pulse")
    assert ModelSchema.decode(schema.encode()) == schema
    assert schema.targets == ("weight", "pulse")
    assert json.loads(schema.encode())["format"] == 3


def test_one_value_is_written_as_before() -> None:
    assert schema_of().encode() == (
        b'{"classes":[],"features":[{"dtype":"float32","high":null,"low":null,"name":"chins",'
        b'"shape":[],"unit":""}],"format":1,"input":"features","model":"body",'
        b'"outputs":[{"name":"value","role":"value"}],"task":"regression"}'
    )


@pytest.mark.parametrize(
    ("targets", "word"),
    [
        (["weight"], "1 targets, must be 2 to 256"),
        ([f"t{n}" for n in range(TARGETS_MAX + 1)], "at most 256 items"),
        (["weight", "pulse", "weight"], "target 'weight' is named twice"),
        (["weight", ""], "not text of 1 to 128"),
        (["weight", "x" * 129], "not text of 1 to 128"),
        (["weight", 3], "not text of 1 to 128"),
        ("weight", "list"),
    ],
)
def test_an_unsound_naming_is_refused(targets: Any, word: str) -> None:
    fields = json.loads(schema_of("weight", "pulse").encode())
    fields["outputs"][0]["targets"] = targets
    with pytest.raises(ContractError, match=word):
        ModelSchema.decode(json.dumps(fields).encode())


def test_the_largest_number_of_targets_is_taken_and_only_a_value_has_them() -> None:
    assert len(schema_of(*(f"t{n}" for n in range(TARGETS_MAX))).targets) == TARGETS_MAX
    with pytest.raises(MalformedError, match="257 targets, must be 2 to 256"):
        schema_of(*(f"t{n}" for n in range(TARGETS_MAX + 1)))
    with pytest.raises(MalformedError, match="only a value has targets"):
        Output(name="label", role=Role.LABEL, targets=("a", "b"))
