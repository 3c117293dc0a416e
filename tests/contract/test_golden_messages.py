"""Messages of contract version 1 stay readable for ever, and what is written stays the same."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.assignment import Assignment, ProbationPolicy, SlotAssignment
from edge_agent.contract.messages import (
    AckRange,
    Reported,
    Running,
    SlotReport,
    SlotState,
    Status,
    TelemetryAck,
)
from edge_agent.contract.renewal import CertificateAnswer, RenewRequest
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport, ShadowState
from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, FrameKind, Part
from edge_agent.contract.windows import Window, WindowFrame, decode_windows, encode_windows

GOLDEN = Path(__file__).parent / "golden"
SHA = "ab" * 32

MESSAGES: dict[str, Any] = {
    "status.json": Status(is_online=True, boot=7),
    "reported.json": Reported(
        boot=7,
        sequence=3,
        at_ms=1_767_225_600_000,
        agent="0.1.0",
        assignment_counter=4,
        metadata={"root": 1, "targets": 5},
        slots={
            "digits": SlotReport(
                state=SlotState.PROBATION,
                running=Running(target="digits/3/camera.tar", sha256=SHA),
                confirmed=Running(target="digits/2/camera.tar", sha256="cd" * 32),
                desired=Running(target="digits/3/camera.tar", sha256=SHA),
                bank="b",
                rollout=7,
                rows=120,
            ),
            "empty": SlotReport(
                state=SlotState.FAILED, code="selftest-golden", detail="row 3 is off by 0.2"
            ),
        },
        refusal={"code": "not-approved", "detail": "digits/9/camera.tar"},
        capabilities={"onnxruntime": "1.31.1"},
        outbox={"waiting": 2, "dropped": 0},
    ),
    "reported_shadow.json": Reported(
        boot=7,
        sequence=4,
        at_ms=1_767_225_600_000,
        agent="0.1.0",
        slots={
            "digits": SlotReport(
                state=SlotState.SHADOWING,
                running=Running(target="digits/2/camera.tar", sha256="cd" * 32),
                confirmed=Running(target="digits/2/camera.tar", sha256="cd" * 32),
                desired=Running(target="digits/3/camera.tar", sha256=SHA),
                bank="a",
                rollout=7,
                shadow=ShadowReport(
                    sha256=SHA,
                    state=ShadowState.COMPARING,
                    seconds=90,
                    requests=120,
                    rows=128,
                    differs=3,
                    errors=1,
                    skipped=40,
                    dropped=2,
                    cpu_ms=310,
                    difference=(100, 20, 5, 0, 0, 2, 1, 0),
                    latency=(0, 0, 118, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                    candidate_latency=(0, 0, 0, 110, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                ),
            ),
        },
    ),
    "renew.json": RenewRequest(csr="-----BEGIN CERTIFICATE REQUEST-----\n", serial="3fa9"),
    "cert.json": CertificateAnswer(serial="3fa9", certificate="-----BEGIN CERTIFICATE-----\n"),
    "cert_refused.json": CertificateAnswer(
        serial="3fa9", code="too-often", detail="5 certificates within a day", retry_after_s=3_600
    ),
    "telack.json": TelemetryAck(ranges=(AckRange(7, 0, 0, 41), AckRange(7, 1, 3, 3))),
    "chunk_request.json": ChunkRequest(
        request=9, sha256=SHA, part=Part.CHUNKS, first=12, bitmap=0b1011
    ),
    "chunk_frame.bin": ChunkFrame(
        kind=FrameKind.CHUNK, request=9, index=12, sha256_prefix=b"\xab" * 16, body=b"bytes"
    ),
    "assignment.json": Assignment(
        fleet="fleet-1",
        device="cam-7",
        counter=5,
        issued_at=datetime(2026, 1, 1, tzinfo=UTC),
        expires_at=datetime(2026, 1, 8, tzinfo=UTC),
        slots={
            "digits": SlotAssignment(
                target="digits/3/camera.tar", rollout=7, probation=ProbationPolicy(duration_s=30)
            )
        },
    ),
}
MESSAGES["assignment_shadow.json"] = Assignment(
    fleet="fleet-1",
    device="cam-7",
    counter=6,
    issued_at=datetime(2026, 1, 1, tzinfo=UTC),
    expires_at=datetime(2026, 1, 8, tzinfo=UTC),
    slots={"digits": SlotAssignment(target="digits/3/camera.tar", shadow=ShadowPolicy(share=0.2))},
)
FRAME = WindowFrame(
    boot=7,
    windows=(
        Window(
            stream=0,
            sequence=41,
            t0_ms=1_767_225_600_000,
            t1_ms=1_767_225_660_000,
            reference=b"\x01" * 8,
            artifact=b"\xab" * 8,
            rows=256,
            counters=b"\x80\x02\x00",
        ),
    ),
)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_read_as_it_was_written_in_version_1(name: str) -> None:
    message = MESSAGES[name]
    assert type(message).decode((GOLDEN / name).read_bytes()) == message


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_written_as_in_version_1(name: str) -> None:
    assert MESSAGES[name].encode() == (GOLDEN / name).read_bytes()


def test_a_telemetry_frame_is_read_and_written_as_in_version_1() -> None:
    golden = (GOLDEN / "windows.bin").read_bytes()
    assert decode_windows(golden) == FRAME
    assert encode_windows(FRAME.boot, FRAME.windows) == golden


def test_unknown_fields_survive_a_round_trip() -> None:
    later = MESSAGES["reported.json"].encode().replace(b'{"agent"', b'{"added_later":[1],"agent"')
    assert b'"added_later":[1]' in Reported.decode(later).encode()
