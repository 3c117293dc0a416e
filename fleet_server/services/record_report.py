"""Turn what devices say of themselves into device and slot rows.

A broker that was killed delivers old messages again, and a last will may arrive after the device
is back. Boot ids are random, so their order is the order in which the server first met them: a
boot that was left behind never speaks for the device again. Within a boot the higher sequence
wins. ``retire_boots`` is durable before the rows move on, so that a crash in between leaves a
boot that is still the stored one, which is checked first.

A boot that was left behind and says something new all the same is a sign that the identity is in
use twice (``core/clone_watch.py``). What a device refuses for reasons of trust goes with its rows
to the audit log, once per change.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from edge_agent.contract.codes import Code, FailureClass, class_of
from edge_agent.contract.messages import Reported, Status
from fleet_server.core.clone_watch import judge_return, note_new_boot, note_newest_spoke
from fleet_server.ports.gateway import (
    AcceptedReport,
    BootHistory,
    DeviceChange,
    DeviceState,
    RefusalNote,
    ReportRepository,
)

REFUSALS_MAX = 16
"""Refusals of one device and batch that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMessage:
    """A decoded message; ``text`` is the JSON of a report as received."""

    device: int
    message: Status | Reported
    text: str = ""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a device's messages of one batch come to."""

    state: DeviceState
    report: AcceptedReport | None
    retired: tuple[str, ...]
    refusals: tuple[RefusalNote, ...] = ()
    evidence: str = ""


class RecordReports:
    """Apply batches of status and reported messages."""

    def __init__(self, repository: ReportRepository, boots: BootHistory) -> None:
        self._repository, self._boots = repository, boots

    def apply(self, messages: Sequence[DeviceMessage], *, at: datetime) -> int:
        """Store what the messages change; return how many devices changed.

        Raises:
            FleetError: Nothing was stored; the same messages may be offered again.
        """
        if not messages:
            return 0
        by_device: dict[int, list[DeviceMessage]] = {}
        for message in messages:
            by_device.setdefault(message.device, []).append(message)
        states = self._repository.load_states(by_device)
        retired = self._boots.retired_boots(by_device)
        changes: list[DeviceChange] = []
        changed = 0
        boots: list[tuple[int, str]] = []
        for device, said in by_device.items():
            before = states.get(device)
            if before is None:
                continue  # deleted since the message was sorted
            folded = fold_messages(before, said, retired=retired.get(device, ()), at=at)
            is_news = folded.state != before or folded.report is not None
            changed += is_news
            if is_news or folded.state.boots != before.boots:
                changes.append(
                    DeviceChange(
                        device=device,
                        state=folded.state,
                        report=folded.report,
                        refusals=folded.refusals,
                        evidence=folded.evidence,
                    )
                )
            boots.extend((device, boot) for boot in folded.retired)
        self._boots.retire_boots(boots)
        if changes:
            self._repository.save_changes(changes, at=at)
        return changed


def fold_messages(
    state: DeviceState,
    messages: Iterable[DeviceMessage],
    *,
    retired: Collection[str],
    at: datetime | None = None,
) -> Folded:
    """Apply messages of one device in order; late ones of earlier boots or reports do nothing.

    Args:
        state: What is stored.
        messages: In order of arrival.
        retired: Boots the device left behind.
        at: Server clock; None to look for no copies.
    """
    report: AcceptedReport | None = None
    left: list[str] = []
    refusals: dict[tuple[str, str], RefusalNote] = {}
    evidence, at_ms = "", int(at.timestamp() * 1_000) if at is not None else 0
    for said in messages:
        message = said.message
        boot = f"{message.boot:016x}"
        if boot != state.boot:
            if boot in retired or boot in left:
                if isinstance(message, Reported) and at is not None:
                    boots, found = judge_return(
                        state.boots,
                        boot,
                        message.sequence,
                        made_ms=message.at_ms,
                        received_ms=at_ms,
                    )
                    state, evidence = replace(state, boots=boots), evidence or found
                continue
            if state.boot:
                left.append(state.boot)
            boots = note_new_boot(state.boots, state.boot, state.sequence, at_ms=at_ms)
            state = DeviceState(boot=boot, is_online=state.is_online, boots=boots)
        if isinstance(message, Status):
            state = replace(state, is_online=message.is_online)
        elif message.sequence > state.sequence:
            boots = note_newest_spoke(state.boots)
            state = replace(state, sequence=message.sequence, boots=boots)
            serial = message.certificate.get("serial", "")
            report = AcceptedReport(text=said.text, slots=message.slots, certificate=serial)
            refusals |= {(note.place, note.code): note for note in find_trust_refusals(message)}
    return Folded(state, report, tuple(left), tuple(refusals.values())[:REFUSALS_MAX], evidence)


def find_trust_refusals(report: Reported) -> list[RefusalNote]:
    """Return what a report says was refused because it is not what the approvers signed."""
    said = [(name, slot.code or "", slot.detail) for name, slot in report.slots.items()]
    if report.refusal:
        said.insert(0, ("", report.refusal["code"], report.refusal["detail"]))
    if strange := report.certificate.get("refused", ""):
        said.append(("identity", str(Code.WRONG_AUTHORITY), strange))
    return [
        RefusalNote(place=place, code=code, detail=detail)
        for place, code, detail in said
        if code in _TRUST_CODES
    ]


_TRUST_CODES = frozenset(
    {str(code) for code in Code if class_of(code) is FailureClass.NOT_FOR_ME}
    | {Code.BLOB_HASH, Code.BLOB_SIZE}
) - {Code.MISFIT}
"""What an attack looks like on a device; bytes that are not what was signed are one as well."""
