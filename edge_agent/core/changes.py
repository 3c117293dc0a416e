"""One change of the whole agent: what happened to its slots, and the trust that came with it."""

from dataclasses import replace

from edge_agent.core.agent_state import AgentState
from edge_agent.core.effects import Effect
from edge_agent.core.events import Assigned, Event, Reapproved, Withdrawn
from edge_agent.core.release import PackageKey, Release
from edge_agent.core.slot import Slot, durable_part
from edge_agent.core.update_machine import step
from edge_agent.core.verified import Standing, VerifiedAssignment
from edge_agent.core.withdrawal import find_held


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
            shadow=verified.assignment.slots[slot].shadow,
            on_withdrawn=target.custom.on_withdrawn,
        )
        for slot, target in verified.targets.items()
    }


def held_packages(state: AgentState) -> frozenset[PackageKey]:
    """Return every package that a withdrawal would concern."""
    held: frozenset[PackageKey] = frozenset()
    return held.union(*(find_held(slot) for slot in state.slots.values()))


def events_of(
    state: AgentState,
    standing: Standing | None,
    verified: VerifiedAssignment | None,
    now: float,
) -> tuple[tuple[str, Event], ...]:
    """Return what a judgement means for each slot: assignments first, they may rename packages."""
    events: list[tuple[str, Event]] = []
    if verified is not None:
        events += [(name, Assigned(r, now)) for name, r in releases_of(verified).items()]
    if standing is not None:
        for name, slot in state.slots.items():
            held = find_held(slot)
            if gone := held & standing.withdrawn:
                events.append((name, Withdrawn(gone, now)))
            marked = any(p.is_withdrawn for p in (slot.banks.a, slot.banks.b) if p is not None)
            if marked and (approved := held & standing.approved):
                events.append((name, Reapproved(approved)))
    return tuple(events)


def apply_change(
    state: AgentState,
    events: tuple[tuple[str, Event], ...],
    verified: VerifiedAssignment | None,
    standing: Standing | None = None,
) -> tuple[AgentState, list[tuple[str, Effect]]]:
    """Step every slot that something happened to; return the whole next state and effects."""
    slots, effects = dict(state.slots), []
    for name, event in events:
        slots[name], more = step(slots.get(name, Slot()), event)
        effects += [(name, effect) for effect in more]
    state = replace(state, slots=slots)
    if standing is not None:
        state = replace(state, accepted=standing.accepted, metadata=standing.metadata)
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
