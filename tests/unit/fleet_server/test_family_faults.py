"""What goes wrong with one member is that member's failure, whatever it is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fleet_server.ports.training import CodeVersion
from fleet_server.training.family import split_members
from fleet_server.training.family_member import FamilyRecipe, train_members
from fleet_server.training.member_faults import FAULT_CHARS_MAX, say_fault
from tests.support.training import edit, raw_table, read_spec, value_spec

FAMILY = edit(
    value_spec(task="regression", estimator="sklearn.linear_model.Ridge"),
    {
        'name = "small"': 'name = "line-{route}"',
        "[train]": '[family]\npartition = "route"\nrows_min = 20\n[train]',
    },
)


class FailingWriter:
    """Cannot keep the model of one member."""

    def write(self, estimator: Any) -> bytes:
        if estimator.coef_[0] > 2:
            raise MemoryError("no room for 5 GB")
        return b"kept"


def test_a_fault_of_a_library_fails_its_member_alone() -> None:
    x = np.linspace(0, 1, 80)
    slope = np.repeat([1.0, 9.0], 40)
    table = raw_table(
        {"x": x.tolist(), "t": (x * slope).tolist()}, {"route": ["a"] * 40 + ["b"] * 40}
    )
    spec = replace(read_spec(FAMILY), profiles=())
    members = split_members(spec, table, source="rows.csv").members
    recipe = FamilyRecipe(
        spec=spec, key="k", profiles=(), code=CodeVersion(), writer=FailingWriter()
    )
    kept, failed = train_members(recipe, members)
    assert (kept.failure, kept.source_model) == ("", b"kept")
    assert failed.failure == (
        "keeping its source model failed: there is not enough memory; train with fewer --jobs or a"
        " smaller model (no room for 5 GB)"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("opset"), "a library looks for what is not there ('opset')"),
        (AttributeError("no attribute 'x'"), "a library does not fit the installed ones (no attr"),
        (RuntimeError(""), "the library gave no reason"),
        (ValueError("x" * 600), "fitting it failed: xxx"),
    ],
)
def test_a_fault_nobody_foresaw_is_told_by_what_was_done(error: Exception, said: str) -> None:
    told = say_fault("fitting it", error)
    assert told.startswith("fitting it failed: ")
    assert said in told
    assert type(error).__name__ not in told
    assert len(told) <= FAULT_CHARS_MAX
