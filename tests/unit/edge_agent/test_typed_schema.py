"""A schema with categories, missing values or a picture survives its JSON; a sound one only."""

import json

import pytest

from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.image import ColourOrder, ImageInput
from edge_agent.contract.schema import Dtype, Feature, ModelSchema, Output, Role, Task

VALUE = (Output(name="value", role=Role.VALUE),)


def _schema(*features: Feature, image: ImageInput | None = None) -> ModelSchema:
    return ModelSchema(
        model="plant", task=Task.REGRESSION, features=features, outputs=VALUE, image=image
    )


def test_a_typed_schema_survives_its_json() -> None:
    schema = _schema(
        Feature(name="heat", low=-40, is_nullable=True),
        Feature(name="door", dtype=Dtype.BOOL),
        Feature(name="hue", dtype=Dtype.CATEGORY, categories=("red", "blü"), is_open=True),
        image=ImageInput(height=8, width=6, colours=ColourOrder.BGR, mean=(0.1, 0.2, 0.3)),
    )
    assert ModelSchema.decode(schema.encode()) == schema


def test_numbers_alone_keep_the_format_that_older_agents_read() -> None:
    fields = json.loads(_schema(Feature(name="heat"), Feature(name="n", dtype="int64")).encode())
    assert fields["format"] == 1
    assert set(fields["features"][0]) == {"name", "dtype", "shape", "low", "high", "unit"}
    assert "image" not in fields


@pytest.mark.parametrize(
    "feature",
    [
        Feature(name="heat", is_nullable=True),
        Feature(name="door", dtype=Dtype.BOOL),
        Feature(name="hue", dtype=Dtype.CATEGORY, categories=("red",)),
    ],
)
def test_what_older_agents_would_misread_they_refuse(feature: Feature) -> None:
    assert json.loads(_schema(feature).encode())["format"] == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dtype": "video"}, "'video' is not one of"),
        ({"dtype": "category"}, "0 categories"),
        ({"dtype": "category", "categories": ["a", "a"]}, "listed twice"),
        ({"dtype": "category", "categories": ["a", ""]}, "not text of 1 to 256"),
        ({"dtype": "category", "categories": ["a", 3]}, "not text of 1 to 256"),
        ({"dtype": "category", "categories": ["a"], "shape": [2]}, "no shape"),
        ({"dtype": "bool", "high": 1.0}, "no shape and no range"),
        ({"categories": ["a"]}, "only a category"),
        ({"unknown": True}, "only a category"),
        ({"missing": 1}, "missing must be true or false"),
    ],
)
def test_an_unsound_feature_is_refused_by_name(change: dict[str, object], word: str) -> None:
    fields = json.loads(_schema(Feature(name="heat")).encode())
    fields["format"] = 2
    fields["features"][0] |= change
    with pytest.raises(ContractError, match=word):
        ModelSchema.decode(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"height": 0}, "each side must be"),
        ({"colours": "rgba"}, "rgba"),
        ({"resize": "magic"}, "magic"),
        ({"pixels_max": 3}, "pixels_max 3 must be 48"),
        ({"pixels_max": 2**40}, "pixels_max"),
        ({"mean": [0.5]}, "1 numbers of mean for 3"),
        ({"deviation": [1, 0, 1]}, "above 0"),
        ({"scale": "big"}, "scale must be a number"),
    ],
)
def test_an_unsound_picture_is_refused(change: dict[str, object], word: str) -> None:
    fields = json.loads(
        _schema(Feature(name="brightness"), image=ImageInput(height=8, width=6)).encode()
    )
    fields["image"] |= change
    with pytest.raises(ContractError, match=word):
        ModelSchema.decode(json.dumps(fields).encode())


def test_the_input_says_whether_it_is_a_picture() -> None:
    fields = json.loads(_schema(Feature(name="heat")).encode())
    fields["input"] = "image"
    with pytest.raises(MalformedError, match="needs input 'features'"):
        ModelSchema.decode(json.dumps(fields).encode())
