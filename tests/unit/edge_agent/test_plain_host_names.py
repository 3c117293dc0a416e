"""Host names of ASCII are encoded as Python's own codec does it."""

import encodings.idna

import pytest

from edge_agent.adapters.plain_host_names import encode

WHOLE = encodings.idna.getregentry()


@pytest.mark.parametrize(
    "name",
    ["", "127.0.0.1", "broker.local", "ok.", "A b", "x" * 63 + ".y", "bücher.example", "ß", "a。b"],
)
def test_a_name_is_encoded_as_python_does(name: str) -> None:
    encoded, length = WHOLE.encode(name)
    assert encode(name) == (bytes(encoded), length)


@pytest.mark.parametrize("name", [".", "a..b", "x" * 64, "x" * 64 + ".y", ".a"])
def test_a_name_that_python_refuses_is_refused(name: str) -> None:
    with pytest.raises(UnicodeError):
        WHOLE.encode(name)
    with pytest.raises(UnicodeError):
        encode(name)
