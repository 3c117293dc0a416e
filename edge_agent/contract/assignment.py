"""The assignment: "device D runs these packages in these slots", signed by the director.

On the wire it is the payload of one DSSE envelope (``down/desired``, retained). Signing and
verifying live at the edges; this module knows the fields and their bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.shadow import ShadowPolicy
from edge_agent.contract.targets import SLOTS_MAX, check_target_path

PAYLOAD_TYPE = "application/vnd.edgefleet.assignment+json"
ENVELOPE_BYTES_MAX = 16_384
DIRECTOR_ROLE = "director"
_YEAR_MIN, _YEAR_MAX = 1970, 9998
"""Arithmetic with other years overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbationPolicy:
    """What a candidate must show on real traffic before it is confirmed.

    Attributes:
        duration_s: Shortest time in probation, 0 to 7 days.
        rows_min: Rows to answer before it can be confirmed; 0 means time alone decides.
        timeout_s: Without ``rows_min`` rows by then it is confirmed on what was seen.
        error_rate_max: Share of failed requests, 0 to 1.
        output_shift_max: Largest total variation distance, 0 to 1, between the mix of answers
            and the reference's; 1 switches the check off.
    """

    duration_s: float = 60.0
    rows_min: int = 30
    timeout_s: float = 3_600.0
    error_rate_max: float = 0.05
    output_shift_max: float = 0.35

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "duration_s": self.duration_s,
            "rows_min": self.rows_min,
            "timeout_s": self.timeout_s,
            "error_rate_max": self.error_rate_max,
            "output_shift_max": self.output_shift_max,
        }

    @classmethod
    def from_json(cls, value: Any) -> "ProbationPolicy":
        """Read the JSON form; absent fields take the defaults; raises MalformedError."""
        fields, default = Fields(value, what="probation"), cls()
        return cls(
            duration_s=fields.number("duration_s", default.duration_s, low=0, high=604_800),
            rows_min=fields.integer("rows_min", default.rows_min, high=10**9),
            timeout_s=fields.number("timeout_s", default.timeout_s, low=0, high=2_592_000),
            error_rate_max=fields.number("error_rate_max", default.error_rate_max, low=0, high=1),
            output_shift_max=fields.number(
                "output_shift_max", default.output_shift_max, low=0, high=1
            ),
        )


_PROBATION = ProbationPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAssignment:
    """One slot's target.

    Attributes:
        target: Path of the TUF target, ``MODEL/VERSION/PROFILE.tar``.
        rollout: Rollout that asked for it, 0 when none.
        retry: Raised by the operator to try a package known bad on this device again.
        probation: Limits of the probation.
        shadow: How the candidate is compared before; None, and not written, when it is not. An
            agent that knows no shadowing begins the probation at once.
    """

    target: str
    rollout: int = 0
    retry: int = 0
    probation: ProbationPolicy = _PROBATION
    shadow: ShadowPolicy | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "target": self.target,
            "rollout": self.rollout,
            "retry": self.retry,
            "probation": self.probation.to_json(),
            **({"shadow": self.shadow.to_json()} if self.shadow is not None else {}),
        }

    @classmethod
    def from_json(cls, value: Any) -> "SlotAssignment":
        """Read the JSON form; raises MalformedError."""
        fields = Fields(value, what="assignment.slots")
        shadow = fields.optional("shadow")
        return cls(
            target=check_target_path(fields.text("target", chars_max=256)),
            rollout=fields.integer("rollout", 0),
            retry=fields.integer("retry", 0),
            probation=ProbationPolicy.from_json(fields.mapping("probation", {})),
            shadow=None if shadow is None else ShadowPolicy.from_json(shadow),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Everything one device shall run.

    Attributes:
        fleet: Name of the fleet; a device of another fleet refuses.
        device: Device id.
        counter: Grows with every new assignment of the device.
        issued_at: Aware UTC.
        expires_at: Aware UTC; expiry blocks new installs, never the running model.
        slots: Slot name to target; a slot absent here is left as it is.
        reconnect_spread_s: Devices spread their first reconnect over this long.
    """

    fleet: str
    device: str
    counter: int
    issued_at: datetime
    expires_at: datetime
    slots: Mapping[str, SlotAssignment]
    reconnect_spread_s: float = 10.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode the payload that is signed."""
        return dump_object(
            {
                **self.extra,
                "v": CONTRACT_VERSION,
                "fleet": self.fleet,
                "device": self.device,
                "counter": self.counter,
                "issued": self.issued_at.isoformat(),
                "expires": self.expires_at.isoformat(),
                "slots": {name: slot.to_json() for name, slot in self.slots.items()},
                "reconnect_spread_s": self.reconnect_spread_s,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Assignment":
        """Decode a payload whose signature was checked; raises ContractError."""
        what = "assignment"
        fields = Fields(parse_object(payload, what=what, limit_bytes=ENVELOPE_BYTES_MAX), what=what)
        fields.version(CONTRACT_VERSION)
        slots = fields.mapping("slots", items_max=SLOTS_MAX)
        return cls(
            fleet=fields.text("fleet", chars_max=64),
            device=fields.text("device", chars_max=64),
            counter=fields.integer("counter", low=1),
            issued_at=read_instant(fields.text("issued", chars_max=40), what=what),
            expires_at=read_instant(fields.text("expires", chars_max=40), what=what),
            slots={name: SlotAssignment.from_json(slot) for name, slot in slots.items()},
            reconnect_spread_s=fields.number("reconnect_spread_s", 10.0, low=0, high=3_600),
            extra=fields.rest(),
        )


def read_instant(text: str, *, what: str) -> datetime:
    """Read an ISO 8601 instant with its offset; raises MalformedError."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError(f"{what}: {text[:40]!r} is not an ISO 8601 instant") from error
    if instant.tzinfo is None:
        raise MalformedError(f"{what}: {text!r} says no time zone")
    if not _YEAR_MIN <= instant.year <= _YEAR_MAX:
        raise MalformedError(f"{what}: {text!r} is not between {_YEAR_MIN} and {_YEAR_MAX}")
    return instant


def target_path(model: str, version: int, profile: str) -> str:
    """Build the target path of a package.

    >>> target_path("digits", 3, "camera")
    'digits/3/camera.tar'
    """
    return check_target_path(f"{model}/{version}/{profile}.tar")
