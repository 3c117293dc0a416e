"""A class in a cell of a file, as programs that edit tables write it."""

import pytest

from edge_agent.contract.answer_parts import AnswerPart
from fleet_server.errors import RefusedError
from fleet_server.services.import_labels import _read_cell

DIGITS = AnswerPart("", tuple("0123456789"))


@pytest.mark.parametrize("cell", ["3", "3.0", 3.0])
def test_a_class_that_is_a_number_is_known_however_it_is_written(cell: str | float) -> None:
    assert _read_cell("", cell, DIGITS) == 3.0


@pytest.mark.parametrize("cell", ["3.5", "10.0", "inf", "three", ""])
def test_what_is_no_class_is_refused(cell: str) -> None:
    with pytest.raises(RefusedError, match="is none of 0, 1, 2"):
        _read_cell("", cell, DIGITS)
