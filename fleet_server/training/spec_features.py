"""Read ``[data.features]``: name, type, shape, allowed range or categories of each input."""

import math
from typing import Any

import numpy as np

from edge_agent.contract.schema import (
    CATEGORY_CHARS_MAX,
    FEATURES_MAX,
    TEXT_CHARS_MAX,
    WIDTH_MAX,
    Dtype,
    Feature,
)
from fleet_server.training.categories import LEARNED, VALUES_MAX, VALUES_MAX_DEFAULT
from fleet_server.training.spec_keys import LATER_TYPES, say_later
from fleet_server.training.spec_problems import Section, is_number, show
from fleet_server.training.texts import (
    CHARS_MAX_DEFAULT,
    NGRAMS_MAX,
    TERMS_MAX,
    TERMS_MAX_DEFAULT,
    UNITS,
    TextTerms,
)

DTYPES = tuple(str(dtype) for dtype in Dtype)
FROM_DATA = "from-data"
_NUMBER_KEYS = ("shape", "range", "min", "max", "unit")
_CATEGORY_KEYS = ("values", "values_max", "unknown")
_TEXT_KEYS = ("chars_max", "terms_max", "ngrams", "terms")
DIMENSIONS_MAX = 4
FLOAT32_MAX = float(np.finfo(np.float32).max)
INTEGER_EXACT_MAX = 2**24
"""Largest whole number up to which float32 holds every one exactly."""


def read_features(data: Section) -> tuple[Feature, ...]:
    """Read the features in the order of the file; problems go where the section says."""
    table = data.section("features")
    if "features" not in data or (not table.values and data.values.get("features") == {}):
        data.add("features", 'missing; declare each input, for example x = { type = "float32" }')
        return ()
    if len(table.values) > FEATURES_MAX:
        data.add("features", f"declares {len(table.values)} features, at most {FEATURES_MAX}")
        return ()
    features = []
    for name, value in table.values.items():
        section = Section(table.problems, (*table.path, name), value)
        if _is_usable_type(table, name, section):
            checked = Section(table.problems, section.path, value, kind="data.features.*")
            features.append(_read_feature(checked, name))
    _check_columns(table, features)
    return tuple(features)


def _is_usable_type(table: Section, name: str, section: Section) -> bool:
    """Look at the type first: the other keys of a type that does not work yet say nothing."""
    word = section.values.get("type")
    if not name.strip() or len(name) > 120:
        table.add(name, "a feature's name has 1 to 120 characters")
    if word is None:
        if isinstance(table.values[name], dict):
            section.add("type", f"missing; give {' or '.join(DTYPES)}")
    elif isinstance(word, str) and word in LATER_TYPES:
        table.add(name, f"type {show(word)} is {say_later(LATER_TYPES[word])}")
        return False
    elif word not in DTYPES:
        near = "; float64 travels as float32" if word == "float64" else ""
        table.add(name, f"type {show(word)} is not one of {list(DTYPES)}{near}")
    return isinstance(table.values[name], dict)


def _read_feature(section: Section, name: str) -> Feature:
    dtype = section.values.get("type")
    has_words = dtype in (Dtype.BOOL, Dtype.CATEGORY, Dtype.TEXT)
    wrong: tuple[str, ...] = _NUMBER_KEYS if has_words else ()
    wrong += _CATEGORY_KEYS if dtype != Dtype.CATEGORY else ()
    wrong += _TEXT_KEYS if dtype != Dtype.TEXT else ()
    for key in wrong:
        if key in section:
            section.add(key, f"a {dtype} has none")
    is_nullable = _choose(section, "missing", ("refuse", "allow"), "refuse") == "allow"
    if dtype == Dtype.BOOL:
        return Feature(name=name, dtype=Dtype.BOOL, is_nullable=is_nullable)
    if dtype == Dtype.CATEGORY:
        return _read_category(section, name, is_nullable=is_nullable)
    if dtype == Dtype.TEXT:
        chars_max = section.integer("chars_max", CHARS_MAX_DEFAULT, low=1, high=TEXT_CHARS_MAX)
        return Feature(name=name, dtype=Dtype.TEXT, is_nullable=is_nullable, chars_max=chars_max)
    low, high = _read_range(section)
    if dtype == "int64":
        _check_whole(section, low, high)
    return Feature(
        name=name,
        dtype=dtype if dtype in DTYPES else Dtype.FLOAT32,
        is_nullable=is_nullable,
        shape=_read_shape(section),
        low=None if low is None else _round_outward(low, -math.inf),
        high=None if high is None else _round_outward(high, math.inf),
        unit=section.text("unit", chars_max=40),
    )


def read_values_max(data: Section) -> dict[str, int]:
    """Read how many texts each category may learn; only what ``read_features`` found sound."""
    limits = {}
    for name, value in data.section("features").values.items():
        if isinstance(value, dict) and value.get("type") == Dtype.CATEGORY:
            limit = value.get("values_max", VALUES_MAX_DEFAULT)
            limits[name] = limit if isinstance(limit, int) else VALUES_MAX_DEFAULT
    return limits


def read_text_terms(data: Section) -> dict[str, TextTerms]:
    """Read what is learned of each text."""
    terms = {}
    table = data.section("features")
    for name, value in table.values.items():
        if not isinstance(value, dict) or value.get("type") != Dtype.TEXT:
            continue
        section = Section(table.problems, (*table.path, name), value)
        terms[name] = TextTerms(
            terms_max=section.integer("terms_max", TERMS_MAX_DEFAULT, low=1, high=TERMS_MAX),
            ngrams=section.integer("ngrams", 1, low=1, high=NGRAMS_MAX),
            unit=_choose(section, "terms", UNITS, UNITS[0]),
        )
    return terms


def _read_category(section: Section, name: str, *, is_nullable: bool) -> Feature:
    section.integer("values_max", VALUES_MAX_DEFAULT, low=1, high=VALUES_MAX)
    if "unknown" not in section:
        section.problems.add(
            section.path,
            "says no `unknown`; a device will meet a value that training did not. Use unknown ="
            ' "other" or "refuse"',
        )
    unknown = _choose(section, "unknown", ("refuse", "other"), "refuse")
    return Feature(
        name=name,
        dtype=Dtype.CATEGORY,
        categories=_read_values(section),
        is_nullable=is_nullable,
        is_open=unknown == "other",
    )


def _read_values(section: Section) -> tuple[str, ...]:
    if section.values.get("values", FROM_DATA) == FROM_DATA:
        return (LEARNED,)
    values = section.items("values", items_max=VALUES_MAX)
    if not values and isinstance(section.values["values"], list):
        section.add("values", f'is empty; list the categories or say "{FROM_DATA}"')
    for value in values:
        is_text = isinstance(value, str) and value == value.strip()
        if not is_text or not 1 <= len(value) <= CATEGORY_CHARS_MAX:
            section.add(
                "values",
                f"{show(value)} is not text of 1 to {CATEGORY_CHARS_MAX} characters without blanks"
                " at its ends",
            )
            return (LEARNED,)
        if values.count(value) > 1:
            section.add("values", f"{show(value)} is listed twice")
            return (LEARNED,)
    return tuple(values) or (LEARNED,)


def _choose(section: Section, key: str, words: tuple[str, ...], default: str) -> str:
    word = section.values.get(key, default)
    if word not in words:
        section.add(key, f"{show(word)} is not one of {list(words)}")
        return default
    return str(word)


def _read_shape(section: Section) -> tuple[int, ...]:
    shape = section.items("shape", items_max=DIMENSIONS_MAX)
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= WIDTH_MAX:
            section.add("shape", f"{show(size)} is not a whole number from 1 to {WIDTH_MAX}")
            return ()
    if math.prod(shape) > WIDTH_MAX:
        section.add("shape", f"{shape} has {math.prod(shape)} values, at most {WIDTH_MAX}")
        return ()
    return tuple(shape)


def _read_range(section: Section) -> tuple[float | None, float | None]:
    if "range" not in section:
        low = section.number("min", low=-FLOAT32_MAX, high=FLOAT32_MAX)
        high = section.number("max", low=-FLOAT32_MAX, high=FLOAT32_MAX)
        if low is not None and high is not None and low >= high:
            section.problems.add(section.path, f"min {low:g} is not below max {high:g}")
        return low, high
    if "min" in section or "max" in section:
        section.problems.add(section.path, "says range and min or max; choose one")
    pair: list[Any] = section.items("range", items_max=2)
    if len(pair) != 2 or not all(is_number(bound) for bound in pair):
        section.add("range", f"must be [smallest, largest], got {show(section.values['range'])}")
        return None, None
    if max(abs(bound) for bound in pair) > FLOAT32_MAX:
        section.add("range", f"{show(pair)} is beyond what float32 holds")
        return None, None
    if pair[0] >= pair[1]:
        section.problems.add(section.path, f"range {pair} is empty")
    return float(pair[0]), float(pair[1])


def _check_whole(section: Section, *bounds: float | None) -> None:
    for bound in bounds:
        if bound is not None and abs(bound) > INTEGER_EXACT_MAX:
            section.problems.add(
                section.path,
                f"bound {bound:.0f} is beyond {INTEGER_EXACT_MAX}: inputs travel as float32,"
                " which holds no larger whole number exactly",
            )


def _round_outward(bound: float, toward: float) -> float:
    """Give the nearest float32 that does not narrow the range: devices compare in float32."""
    rounded = np.float32(bound)
    held = float(rounded)  # numpy would compare in float32, where the two are equal
    narrows = held > bound if toward < 0 else held < bound
    return float(np.nextafter(rounded, np.float32(toward))) if narrows else held


def _check_columns(table: Section, features: list[Feature]) -> None:
    width = sum(feature.width for feature in features)
    if width > WIDTH_MAX:
        table.problems.add(table.path, f"{width} columns in all, at most {WIDTH_MAX}")
        return
    owner: dict[str, str] = {}
    for feature in features:
        for column in feature.table_columns:
            if column in owner:
                table.add(
                    feature.name, f"column {column!r} also belongs to feature {owner[column]!r}"
                )
                break
            owner[column] = feature.name
