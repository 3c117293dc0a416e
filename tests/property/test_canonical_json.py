"""What the server signs is canonical JSON, byte for byte as python-tuf verifies it."""

from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import MetaFile, Snapshot
from tuf.api.serialization.json import CanonicalJSONSerializer

from fleet_server.adapters.canonical_json import FastCanonicalSerializer

TEXT = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    names=st.dictionaries(TEXT, st.integers(1, 10**9), max_size=6),
    fields=st.dictionaries(TEXT.map(lambda text: "x-" + text), VALUES, max_size=3),
)
def test_the_fast_encoder_gives_the_same_bytes(
    names: dict[str, int], fields: dict[str, object]
) -> None:
    snapshot = Snapshot(
        meta={name: MetaFile(version) for name, version in names.items()},
        unrecognized_fields=fields,
    )
    expected = CanonicalJSONSerializer().serialize(snapshot)
    assert FastCanonicalSerializer().serialize(snapshot) == expected
