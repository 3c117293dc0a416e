"""One change of the whole agent: what happened to its slots, and the trust that came with it."""

from dataclasses import replace

from edge_agent.core.agent_state import AgentState
from edge_agent.core.effects import Effect
from edge_agent.core.events import Event
from edge_agent.core.release import Release
from edge_agent.core.slot import Slot, durable_part
from edge_agent.core.update_machine import step
from edge_agent.core.verified import VerifiedAssignment


def releases_of(verified: VerifiedAssignment) -> dict[str, Release]:
    """Join what the director assigned with what the approvers signed, by slot."""
    return {
        slot: Release(
            target=target.path,
            sha256=target.sha256,
            size_bytes=target.size_bytes,
            chunks=target.custom.chunks,
            schema=target.custom.schema,
            rollout=verified.assignment.slots[slot].rollout,
            retry=verified.assignment.slots[slot].retry,
            probation=verified.assignment.slots[slot].probation,
        )
        for slot, target in verified.targets.items()
    }


def apply_change(
    state: AgentState,
    events: tuple[tuple[str, Event], ...],
    verified: VerifiedAssignment | None,
) -> tuple[AgentState, list[tuple[str, Effect]]]:
    """Step every slot that something happened to; return the whole next state and effects."""
    slots, effects = dict(state.slots), []
    for name, event in events:
        slots[name], more = step(slots.get(name, Slot()), event)
        effects += [(name, effect) for effect in more]
    state = replace(state, slots=slots)
    if verified is not None:
        state = replace(
            state,
            accepted=verified.accepted,
            metadata=verified.metadata,
            spread_s=verified.assignment.reconnect_spread_s,
        )
    return state, effects


def is_durably_different(old: AgentState, new: AgentState) -> bool:
    """Tell whether a change must be on disk before its effects may follow."""
    if (old.accepted, old.metadata, old.spread_s) != (new.accepted, new.metadata, new.spread_s):
        return True
    return any(
        name not in old.slots or durable_part(old.slots[name]) != durable_part(slot)
        for name, slot in new.slots.items()
    )
