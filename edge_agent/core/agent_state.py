"""Everything the agent commits, as one value, and its JSON form.

One value, one file, one rename: trust and slots can never disagree after a power cut. Volatile
attributes of a slot are left out; after a start they are as ``Slot`` has them by default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields
from edge_agent.contract.messages import SlotState
from edge_agent.contract.package import OnWithdrawn
from edge_agent.contract.shadow import ShadowPolicy, ShadowReport
from edge_agent.core.banks import Bank, Banks
from edge_agent.core.release import BAD_PACKAGES_MAX, BadPackage, Package, Release
from edge_agent.core.slot import Slot
from edge_agent.core.verified import AcceptedTrust

STATE_FORMAT = 1
_NOTHING = AcceptedTrust()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """What the agent is committed to.

    Attributes:
        accepted: Trust that the newest accepted assignment left behind.
        metadata: Trusted TUF versions by role, for the report.
        slots: By name.
        spread_s: First reconnects spread over this long.
    """

    accepted: AcceptedTrust = _NOTHING
    metadata: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    spread_s: float = 10.0


def state_to_json(state: AgentState) -> dict[str, Any]:
    """Give the durable part in JSON form."""
    return {
        "v": STATE_FORMAT,
        "accepted": state.accepted.to_json(),
        "metadata": dict(state.metadata),
        "spread_s": state.spread_s,
        "slots": {name: _slot_to_json(slot) for name, slot in state.slots.items()},
    }


def state_from_json(value: Any) -> AgentState:
    """Read the JSON form; raises ContractError."""
    fields = Fields(value, what="agent state")
    fields.version(STATE_FORMAT)
    metadata = Fields(fields.mapping("metadata"), what="agent state metadata")
    return AgentState(
        accepted=AcceptedTrust.from_json(fields.mapping("accepted")),
        metadata={name: metadata.integer(name) for name in tuple(metadata.rest())},
        spread_s=fields.number("spread_s", low=0),
        slots={name: _slot_from_json(slot) for name, slot in fields.mapping("slots").items()},
    )


def _slot_to_json(slot: Slot) -> dict[str, Any]:
    return {
        "phase": str(slot.phase),
        "wanted": _release_to_json(slot.wanted) if slot.wanted else None,
        "a": _package_to_json(slot.banks.a),
        "b": _package_to_json(slot.banks.b),
        "confirmed": str(slot.banks.confirmed or ""),
        "candidate": str(slot.candidate or ""),
        "boots": slot.boots,
        "is_stopped": slot.is_stopped,
        "code": str(slot.code or ""),
        "detail": slot.detail,
        "bad": [
            {"sha256": bad.sha256, "retry": bad.retry, "code": str(bad.code)} for bad in slot.bad
        ],
        "shadow": slot.shadow.to_json() if slot.shadow is not None else None,
    }


def _slot_from_json(value: Any) -> Slot:
    fields = Fields(value, what="agent state slot")
    wanted, shadow = fields.optional("wanted"), fields.optional("shadow")
    code = fields.text("code")
    try:
        return Slot(
            phase=SlotState(fields.text("phase")),
            wanted=None if wanted is None else _release_from_json(wanted),
            banks=Banks(
                a=_package_from_json(fields.optional("a")),
                b=_package_from_json(fields.optional("b")),
                confirmed=_bank(fields.text("confirmed")),
            ),
            candidate=_bank(fields.text("candidate")),
            boots=fields.integer("boots"),
            is_stopped=fields.flag("is_stopped"),
            code=Code(code) if code else None,
            detail=fields.text("detail", chars_max=4_096),
            bad=fields.items("bad", _bad_from_json, items_max=BAD_PACKAGES_MAX),
            shadow=None if shadow is None else ShadowReport.from_json(shadow),
        )
    except ValueError as error:
        raise MalformedError(f"agent state slot: {error}") from error


def _release_to_json(release: Release) -> dict[str, Any]:
    return {
        "target": release.target,
        "sha256": release.sha256,
        "size_bytes": release.size_bytes,
        "chunks": release.chunks,
        "schema": release.schema,
        "rollout": release.rollout,
        "retry": release.retry,
        "probation": release.probation.to_json(),
        "shadow": release.shadow.to_json() if release.shadow is not None else None,
        "on_withdrawn": str(release.on_withdrawn),
    }


def _release_from_json(value: Any) -> Release:
    fields = Fields(value, what="agent state release")
    shadow = fields.optional("shadow")
    return Release(
        target=fields.text("target"),
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        chunks=fields.text("chunks"),
        schema=fields.text("schema"),
        rollout=fields.integer("rollout"),
        retry=fields.integer("retry"),
        probation=ProbationPolicy.from_json(fields.mapping("probation")),
        shadow=None if shadow is None else ShadowPolicy.from_json(shadow),
        on_withdrawn=_on_withdrawn(fields),
    )


def _package_to_json(package: Package | None) -> dict[str, Any] | None:
    if package is None:
        return None
    return {
        "target": package.target,
        "sha256": package.sha256,
        "is_proven": package.is_proven,
        "on_withdrawn": str(package.on_withdrawn),
        "is_withdrawn": package.is_withdrawn,
    }


def _package_from_json(value: Any) -> Package | None:
    if value is None:
        return None
    fields = Fields(value, what="agent state bank")
    return Package(
        target=fields.text("target"),
        sha256=fields.text("sha256"),
        is_proven=fields.flag("is_proven"),
        on_withdrawn=_on_withdrawn(fields),
        is_withdrawn=fields.flag("is_withdrawn", default=False),
    )


def _bad_from_json(value: Any) -> BadPackage:
    fields = Fields(value, what="agent state bad")
    return BadPackage(
        sha256=fields.text("sha256"),
        retry=fields.integer("retry"),
        code=Code(fields.text("code")),
    )


def _on_withdrawn(fields: Fields) -> OnWithdrawn:
    """Read the policy; a state from before there was one means stop. Raises ValueError."""
    return OnWithdrawn(fields.text("on_withdrawn", str(OnWithdrawn.STOP)))


def _bank(text: str) -> Bank | None:
    return Bank(text) if text else None
