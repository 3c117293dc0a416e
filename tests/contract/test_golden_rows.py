"""Sampled rows of contract version 1 stay readable for ever, and those whose answers have names."""

import zlib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.rows import (
    HEAD_BYTES,
    Reason,
    Redaction,
    RowBatch,
    RowFeature,
    RowHead,
    RowMessage,
    SampledLabel,
    decode_rows,
    encode_batch,
    frame_batch,
)

GOLDEN = Path(__file__).parent / "golden"
HEAT = RowFeature(name="heat", redaction=Redaction.ROUND, step=0.5)
LABELS = RowMessage(
    boot=7,
    sequence=3,
    batch=RowBatch(
        artifact=b"\xab" * 8,
        stream=1,
        share=0.25,
        labels=(SampledLabel(0xABCDEF12345, 0x102, 0.1),),
    ),
)
ROWS = RowMessage(
    boot=7,
    sequence=4,
    batch=RowBatch(
        artifact=bytes(range(8)),
        stream=0,
        share=0.01,
        features=(
            HEAT,
            RowFeature(name="door", redaction=Redaction.HASH),
            RowFeature(name="pixels", width=2),
        ),
        rows=tuple(
            RowHead(40 + n, 0, 1_767_225_600_000 + n, Reason(n % 2), n % 3, 0.5) for n in range(12)
        ),
        values=(
            array("f", [n / 2 for n in range(12)]).tobytes(),
            bytes(range(96)),
            array("f", [n * 1.0 for n in range(24)]).tobytes(),
        ),
        labels=(SampledLabel(41, 0, 2.0),),
    ),
)
NAMED = RowMessage(
    boot=7,
    sequence=5,
    batch=RowBatch(
        artifact=bytes(range(8)),
        stream=1,
        share=0.5,
        features=(HEAT,),
        rows=tuple(
            RowHead(40 + n, n, 1_767_225_600_000 + n, Reason.SHARE, 0.0, 0.25) for n in range(9)
        ),
        values=(array("f", [n / 2 for n in range(9)]).tobytes(),),
        labels=(SampledLabel(40, 0, 2.5, 1), SampledLabel(40, 0, 1.0, 0)),
        names=("flow", "w\u00e4rme"),
        predicted=(
            array("f", [n * 1.0 for n in range(9)]).tobytes(),
            array("f", [n / 4 for n in range(9)]).tobytes(),
        ),
    ),
)


def test_labels_alone_are_read_and_written_as_in_version_1() -> None:
    check("rows_labels.bin", LABELS)


def test_rows_are_read_and_written_as_in_version_1() -> None:
    check("rows.bin", ROWS)


def test_rows_whose_answers_have_names_are_read_and_written_as_they_began() -> None:
    check("rows_named.bin", NAMED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("flow", "flow")}, "there twice"),
        ({"names": ("flow", "x" * 129)}, "longer than 128"),
        ({"names": ("flow", "")}, "a name of 0 bytes"),
        ({"labels": (SampledLabel(40, 0, 1.0, 2),)}, "a label is of name 2 of 2"),
    ],
)
def test_names_of_answers_are_checked(change: Any, words: str) -> None:
    wrong = frame_batch(7, 5, encode_batch(replace(NAMED.batch, **change)))
    with pytest.raises(MalformedError, match=words):
        decode_rows(wrong)


def check(name: str, message: RowMessage) -> None:
    golden = (GOLDEN / name).read_bytes()
    assert decode_rows(golden) == message
    again = frame_batch(message.boot, message.sequence, encode_batch(message.batch))
    assert again[:HEAD_BYTES] == golden[:HEAD_BYTES]
    # Another zlib may pack the same body into other bytes.
    assert zlib.decompress(again[HEAD_BYTES:]) == zlib.decompress(golden[HEAD_BYTES:])
