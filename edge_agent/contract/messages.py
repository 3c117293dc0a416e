"""Control messages as values, and their JSON (docs/wire_contract.md lists every field).

Every message carries ``v``; unknown fields are kept in ``extra`` and written back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.digits import decode_boot
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.shadow import ShadowReport

STATUS_BYTES_MAX = 1_024
REPORTED_BYTES_MAX = 65_536
TELEMETRY_ACK_BYTES_MAX = 65_536
SLOTS_MAX = 32
RESOURCES_MAX = 32
ACK_RANGES_MAX = 1_024


class SlotState(StrEnum):
    """Where a slot stands; ``running`` in a report says separately what answers."""

    EMPTY = "empty"
    OFFERED = "offered"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    SELF_TESTING = "self_testing"
    SHADOWING = "shadowing"
    PROBATION = "probation"
    CONFIRMED = "confirmed"
    ROLLING_BACK = "rolling_back"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """``up/status``, retained; the offline form is also the last will."""

    is_online: bool
    boot: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                **self.extra,
                "v": CONTRACT_VERSION,
                "state": "online" if self.is_online else "offline",
                "boot": f"{self.boot:016x}",
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Status":
        """Decode; raises ContractError."""
        fields = Fields(
            parse_object(payload, what="status", limit_bytes=STATUS_BYTES_MAX), what="status"
        )
        fields.version(CONTRACT_VERSION)
        state = fields.text("state")
        if state not in ("online", "offline"):
            raise MalformedError(f"status: state must be online or offline, got {state[:40]!r}")
        boot = decode_boot(fields.text("boot"), what="status")
        return cls(is_online=state == "online", boot=boot, extra=fields.rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A target whose bytes a slot can run or runs."""

    target: str
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {"target": self.target, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: Any) -> "Running | None":
        """Read the JSON form; None stays None."""
        if value is None:
            return None
        fields = Fields(value, what="reported.running")
        return cls(target=fields.text("target"), sha256=fields.text("sha256", chars_max=64))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """What one slot runs, wants and met.

    Attributes:
        state: Of the newest attempt.
        running: What answers requests now; None when nothing does.
        confirmed: What would run after a power cut; None when nothing was ever confirmed.
        desired: The target of the newest accepted assignment.
        bank: ``a`` or ``b``, the bank that answers; empty when none.
        code: Why the newest attempt was refused or failed; None when it was not.
        detail: One sentence beside the code.
        rollout: The rollout id of the assignment, 0 when none.
        rows: Rows answered in this probation.
        shadow: What comparing the candidate found, also after it ended; None, and not written,
            when nobody asked for it.
    """

    state: SlotState
    running: Running | None = None
    confirmed: Running | None = None
    desired: Running | None = None
    bank: str = ""
    code: str | None = None
    detail: str = ""
    rollout: int = 0
    rows: int = 0
    shadow: ShadowReport | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            **self.extra,
            **({"shadow": self.shadow.to_json()} if self.shadow is not None else {}),
            "state": str(self.state),
            "running": self.running.to_json() if self.running else None,
            "confirmed": self.confirmed.to_json() if self.confirmed else None,
            "desired": self.desired.to_json() if self.desired else None,
            "bank": self.bank,
            "code": self.code,
            "detail": self.detail[:512],
            "rollout": self.rollout,
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, value: Any) -> "SlotReport":
        """Read the JSON form; raises MalformedError."""
        fields = Fields(value, what="reported.slots")
        state = fields.text("state", chars_max=40)
        if state not in SlotState.__members__.values():
            raise MalformedError(f"reported.slots: unknown state {state!r}")
        shadow, code = fields.optional("shadow"), fields.optional("code")
        if code is not None and (not isinstance(code, str) or len(code) > 64):
            raise MalformedError("reported.slots: code must be a string of at most 64 characters")
        return cls(
            state=SlotState(state),
            running=Running.from_json(fields.optional("running")),
            confirmed=Running.from_json(fields.optional("confirmed")),
            desired=Running.from_json(fields.optional("desired")),
            bank=fields.text("bank", "", chars_max=1),
            code=code,
            detail=fields.text("detail", ""),
            rollout=fields.integer("rollout", 0),
            rows=fields.integer("rows", 0),
            shadow=None if shadow is None else ShadowReport.from_json(shadow),
            extra=fields.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """``up/reported``: what truly runs; sent at every connect and change.

    Attributes:
        boot: Random id of this start of the agent, 63 bits.
        sequence: Counts the reports of this boot from 1.
        at_ms: Device clock, epoch milliseconds.
        agent: Version of the agent.
        assignment_counter: Of the newest accepted assignment, 0 when none.
        metadata: Trusted TUF versions by role.
        refusal: Newest refusal of a whole assignment: ``{"code", "detail"}`` or None.
        capabilities: What the device is: runtime, limits, CPU, libc, memory, disk.
        outbox: Numbers of the outbox and its budget: ``waiting``, ``merged``, ``dropped``
            windows, and others (docs/telemetry.md).
        resources: What agent and device use (docs/telemetry.md); not written when empty.
        certificate: The certificate in use: its ``serial``, and ``problem`` when its renewal does
            not get on; not written when empty.
    """

    boot: int
    sequence: int
    at_ms: int
    agent: str
    slots: Mapping[str, SlotReport]
    assignment_counter: int = 0
    metadata: Mapping[str, int] = field(default_factory=dict)
    refusal: Mapping[str, str] | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    outbox: Mapping[str, int] = field(default_factory=dict)
    certificate: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                **self.extra,
                "v": CONTRACT_VERSION,
                "boot": f"{self.boot:016x}",
                "sequence": self.sequence,
                "at_ms": self.at_ms,
                "agent": self.agent,
                "slots": {name: slot.to_json() for name, slot in self.slots.items()},
                "assignment_counter": self.assignment_counter,
                "metadata": dict(self.metadata),
                "refusal": dict(self.refusal) if self.refusal else None,
                "capabilities": dict(self.capabilities),
                "outbox": dict(self.outbox),
                **({"certificate": dict(self.certificate)} if self.certificate else {}),
                **({"resources": dict(self.resources)} if self.resources else {}),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Reported":
        """Decode; raises ContractError."""
        what = "reported"
        fields = Fields(parse_object(payload, what=what, limit_bytes=REPORTED_BYTES_MAX), what=what)
        fields.version(CONTRACT_VERSION)
        slots = fields.mapping("slots", items_max=SLOTS_MAX)
        metadata = Fields(fields.mapping("metadata", {}), what="reported.metadata")
        outbox = Fields(fields.mapping("outbox", {}), what="reported.outbox")
        certificate = Fields(fields.mapping("certificate", {}), what="reported.certificate")
        resources = Fields(
            fields.mapping("resources", {}, items_max=RESOURCES_MAX), what="reported.resources"
        )
        refusal = fields.optional("refusal")
        if refusal is not None:
            inner = Fields(refusal, what="reported.refusal")
            refusal = {
                "code": inner.text("code", chars_max=64),
                "detail": inner.text("detail", ""),
            }
        return cls(
            boot=decode_boot(fields.text("boot"), what=what),
            sequence=fields.integer("sequence"),
            at_ms=fields.integer("at_ms"),
            agent=fields.text("agent", chars_max=64),
            slots={name[:64]: SlotReport.from_json(slot) for name, slot in slots.items()},
            assignment_counter=fields.integer("assignment_counter", 0),
            metadata={name: metadata.integer(name) for name in tuple(metadata.rest())},
            refusal=refusal,
            capabilities=fields.mapping("capabilities", {}),
            outbox={name: outbox.integer(name) for name in tuple(outbox.rest())},
            certificate={name: certificate.text(name) for name in tuple(certificate.rest())},
            resources={name: resources.number(name) for name in tuple(resources.rest())},
            extra=fields.rest(),
        )


@dataclass(frozen=True, slots=True)
class AckRange:
    """Committed sequence numbers ``first`` to ``last``, both included, of one stream."""

    boot: int
    stream: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class LabelRange:
    """Counted label numbers ``first`` to ``last``, both included, of one boot."""

    boot: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryAck:
    """``down/telack``: what the server has committed; the outbox may forget it.

    Attributes:
        ranges: Of windows.
        labels: Of late labels; not written when there are none.
        rows: Of batches of sampled rows; not written when there are none.
    """

    ranges: tuple[AckRange, ...] = ()
    labels: tuple[LabelRange, ...] = ()
    rows: tuple[LabelRange, ...] = ()

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                "v": CONTRACT_VERSION,
                "ranges": [[f"{r.boot:016x}", r.stream, r.first, r.last] for r in self.ranges],
                **{
                    name: [[f"{r.boot:016x}", r.first, r.last] for r in ranges]
                    for name, ranges in (("labels", self.labels), ("rows", self.rows))
                    if ranges
                },
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "TelemetryAck":
        """Decode; raises ContractError."""
        what = "telack"
        fields = Fields(
            parse_object(payload, what=what, limit_bytes=TELEMETRY_ACK_BYTES_MAX), what=what
        )
        fields.version(CONTRACT_VERSION)
        return cls(
            ranges=fields.items("ranges", _read_range, items_max=ACK_RANGES_MAX),
            labels=fields.items("labels", _read_label_range, (), items_max=ACK_RANGES_MAX),
            rows=fields.items("rows", _read_label_range, (), items_max=ACK_RANGES_MAX),
        )


def _read_range(item: Any) -> AckRange:
    match item:
        case [str(boot), int(stream), int(first), int(last)] if (
            0 <= stream < 2**16 and 0 <= first <= last < 2**32
        ):
            return AckRange(decode_boot(boot, what="telack"), stream, first, last)
    raise MalformedError(f"telack: a range must be [boot, stream, first, last], got {item!r:.80}")


def _read_label_range(item: Any) -> LabelRange:
    match item:
        case [str(boot), int(first), int(last)] if 0 <= first <= last < 2**53:
            return LabelRange(decode_boot(boot, what="telack"), first, last)
    raise MalformedError(f"telack: a range must be [boot, first, last], got {item!r:.80}")
