"""Turn what devices say of themselves into device and slot rows.

A broker that was killed delivers old messages again, and a last will may arrive after the device
is back. Boot ids are random, so their order is the order in which the server first met them: a
boot that was left behind never speaks for the device again. Within a boot the higher sequence
wins. ``retire_boots`` is durable before the rows move on, so that a crash in between leaves a
boot that is still the stored one, which is checked first.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from edge_agent.contract.messages import Reported, Status
from fleet_server.ports.gateway import (
    AcceptedReport,
    BootHistory,
    DeviceChange,
    DeviceState,
    ReportRepository,
)


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
        boots: list[tuple[int, str]] = []
        for device, said in by_device.items():
            before = states.get(device)
            if before is None:
                continue  # deleted since the message was sorted
            folded = fold_messages(before, said, retired=retired.get(device, ()))
            if folded.state != before or folded.report is not None:
                changes.append(
                    DeviceChange(device=device, state=folded.state, report=folded.report)
                )
            boots.extend((device, boot) for boot in folded.retired)
        self._boots.retire_boots(boots)
        if changes:
            self._repository.save_changes(changes, at=at)
        return len(changes)


def fold_messages(
    state: DeviceState, messages: Iterable[DeviceMessage], *, retired: Collection[str]
) -> Folded:
    """Apply messages of one device in order; late ones of earlier boots or reports do nothing."""
    report: AcceptedReport | None = None
    left: list[str] = []
    for said in messages:
        message = said.message
        boot = f"{message.boot:016x}"
        if boot != state.boot:
            if boot in retired or boot in left:
                continue
            if state.boot:
                left.append(state.boot)
            state = DeviceState(boot=boot, is_online=state.is_online)
        if isinstance(message, Status):
            state = replace(state, is_online=message.is_online)
        elif message.sequence > state.sequence:
            state = replace(state, sequence=message.sequence)
            report = AcceptedReport(text=said.text, slots=message.slots)
    return Folded(state, report, tuple(left))
