"""Watch drift: read the newest windows, judge every model, store cells, alarms and decisions.

Level-triggered: each run reads what is there and decides anew; the alarms' memory makes looking
twice at the same windows harmless, so a kill at any point costs nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet_server.core.drift_alarm import AlarmState
from fleet_server.core.drift_cells import Key
from fleet_server.core.drift_counts import (
    HORIZONS,
    STALE_WINDOWS,
    DeviceWindows,
    FamilyCounts,
    gather_families,
)
from fleet_server.core.drift_policy import DriftPolicy, Level
from fleet_server.core.drift_verdict import WHOLE_FLEET, Verdict, judge_family
from fleet_server.core.label_query import QueryError, device_facts, parse_query
from fleet_server.errors import MisuseError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.drift import (
    DriftCatalog,
    DriftStore,
    ReferenceSource,
    StoredAlarm,
    WatchedDevice,
    WindowReader,
)
from fleet_server.services.drift_outcome import Subjects, make_outcome
from fleet_server.services.drift_windows import WindowCollector

LOG = logging.getLogger(__name__)
LOOKBACK_MS = 86_400_000
"""Before the length of a window is known; afterwards twice the longest horizon is enough."""
LOOKBACK_MS_MIN = 600_000
GROUPS_MAX = 64
REASON_CHARS = range(8, 401)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """What one run did.

    Attributes:
        models: Judged.
        devices: Judged, each model's counted.
        windows: Added.
        unreadable: Left out because they do not fit their reference.
        alarms_open: Open or closing now.
        problems: What could not be judged, a sentence each.
    """

    models: int
    devices: int
    windows: int
    unreadable: int
    alarms_open: int
    problems: Sequence[str]


class DriftWatch:
    """Judges all models; one at a time may run (the controller's lease sees to that)."""

    def __init__(
        self,
        *,
        windows: WindowReader,
        references: ReferenceSource,
        catalog: DriftCatalog,
        store: DriftStore,
        clock: Clock,
        policy: DriftPolicy | None = None,
    ) -> None:
        self._collector = WindowCollector(windows, references)
        self._catalog, self._store, self._clock = catalog, store, clock
        self._policy = policy or DriftPolicy()
        self._lookback_ms = LOOKBACK_MS
        self._seen: dict[str, int] = {}

    def run_once(self) -> DriftReport:
        """Judge every model that has windows and store what follows."""
        now = self._clock.now()
        now_ms = int(now.timestamp() * 1_000)
        devices = {device.id: device for device in self._catalog.list_devices()}
        queries = self._catalog.list_groups()
        collected = self._collector.collect(
            self._catalog.list_packages(),
            {device.number: device.id for device in devices.values()},
            since_ms=now_ms - self._lookback_ms,
        )
        subjects = find_subjects(devices, queries)
        alarms_open, window_ms = 0, 0
        for model, found in sorted(collected.devices.items()):
            alarms = self._store.list_alarms(model)
            seen = hash((tuple(map(_fingerprint, found)), repr(devices), repr(queries)))
            if self._seen.get(model) == seen:
                alarms_open += _count_open(alarms)
                continue
            verdicts = self._judge(model, gather_families(found), devices, queries, alarms, now_ms)
            window_ms = max(window_ms, *(verdict.window_ms for verdict in verdicts))
            self._store.save(make_outcome(model, verdicts, alarms, subjects, at=now))
            self._seen[model] = seen
            alarms_open += _count_open(self._store.list_alarms(model))
        if window_ms:
            reach_ms = 2 * (HORIZONS[-1] + STALE_WINDOWS) * window_ms
            self._lookback_ms = min(LOOKBACK_MS, max(LOOKBACK_MS_MIN, reach_ms))
        for problem in collected.problems:
            LOG.warning("drift not judged: %s", problem)
        if collected.unreadable:
            LOG.warning("%d windows do not fit their drift reference", collected.unreadable)
        return DriftReport(
            models=len(collected.devices),
            devices=sum(len(found) for found in collected.devices.values()),
            windows=collected.windows,
            unreadable=collected.unreadable,
            alarms_open=alarms_open,
            problems=collected.problems,
        )

    def _judge(
        self,
        model: str,
        families: Sequence[FamilyCounts],
        devices: Mapping[str, WatchedDevice],
        queries: Mapping[str, str],
        alarms: Sequence[StoredAlarm],
        now_ms: int,
    ) -> list[Verdict]:
        asked = {(alarm.level, alarm.subject): alarm.features for alarm in alarms}
        ignore = {
            key: memory.quiet_since_ms for key, memory in self._store.find_closed(model).items()
        }
        homes = find_homes(families, devices, queries)
        return [
            judge_family(
                family,
                home.groups,
                self._policy,
                now_ms=now_ms,
                open_alarms=asked,
                ignore_before_ms=ignore,
                everybody=home.everybody,
            )
            for family, home in zip(families, homes, strict=True)
        ]


def run_drift_once(watch: DriftWatch) -> DriftReport:
    """Judge every model once; what the controller calls every ``drift_period_s``."""
    return watch.run_once()


def find_groups(devices: Sequence[WatchedDevice], queries: Mapping[str, str]) -> dict[str, str]:
    """Give the groups that are judged: the named ones, then one a profile, as name to query."""
    profiles = sorted({device.profile for device in devices})
    implied = {f"profile={profile}": f"profile='{profile}'" for profile in profiles}
    return dict(list({**queries, **implied}.items())[:GROUPS_MAX])


def find_subjects(devices: Mapping[str, WatchedDevice], queries: Mapping[str, str]) -> Subjects:
    """Say which devices and groups there are."""
    ids = tuple(devices)
    masks = find_masks(ids, devices, queries)
    members = {
        name: frozenset(device_id for device_id, is_in in zip(ids, mask, strict=True) if is_in)
        for name, mask in masks.items()
    }
    return Subjects(devices=frozenset(ids), groups=members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What is judged within one family.

    Attributes:
        groups: Members by name, [D] each: those with more members here than elsewhere.
        everybody: What its devices together are, the name to blame first.
    """

    groups: Mapping[str, NDArray[np.bool_]]
    everybody: Sequence[Key]


def find_homes(
    families: Sequence[FamilyCounts],
    devices: Mapping[str, WatchedDevice],
    queries: Mapping[str, str],
) -> list[Home]:
    """Give every group to the family most of its members are in; the fleet to the largest.

    A group that has moved to another reference as a whole is judged there, without a rest.
    """
    masks = [find_masks(family.device_ids, devices, queries) for family in families]
    homes = []
    for number, own in enumerate(masks):
        kept = {
            name: mask
            for name, mask in own.items()
            if number == max(range(len(masks)), key=lambda k: int(masks[k][name].sum()))
        }
        everybody: list[Key] = [WHOLE_FLEET] if number == 0 else []
        if len(families) > 1:
            whole = (name for name, mask in kept.items() if mask.all() and len(mask) > 1)
            everybody[:0] = [(Level.GROUP, name) for name in whole][:1]
        homes.append(Home(groups=kept, everybody=everybody))
    return homes


def find_masks(
    device_ids: Sequence[str], devices: Mapping[str, WatchedDevice], queries: Mapping[str, str]
) -> dict[str, NDArray[np.bool_]]:
    """Tell who of these devices is in which group; a query that no longer reads is left out."""
    facts = [device_facts(devices[d].id, devices[d].profile, devices[d].labels) for d in device_ids]
    masks = {}
    for name, text in find_groups(list(devices.values()), queries).items():
        try:
            query = parse_query(text)
        except QueryError as error:
            LOG.warning("group %s is not judged: %s", name, error)
            continue
        masks[name] = np.array([query.is_match(fact) for fact in facts], bool)
    return masks


def _count_open(alarms: Sequence[StoredAlarm]) -> int:
    return sum(alarm.memory.state is not AlarmState.PENDING for alarm in alarms)


def _fingerprint(device: DeviceWindows) -> tuple[str, int, int, int]:
    """Tell whether a device's windows are the ones judged last time."""
    total = int(device.counters.sum())
    return device.device_id, len(device.counters), int(device.t1_ms.sum()), total


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftDesk:
    """What people do with drift: look, acknowledge."""

    store: DriftStore
    clock: Clock

    def acknowledge(self, alarm_id: int, *, reason: str, actor: str) -> StoredAlarm:
        """Note that somebody looks after an alarm; it stays open until the shift has gone.

        Raises:
            NotFoundError: No such alarm.
            RefusedError: It is closed.
            MisuseError: A reason shorter than 8 characters or longer than 400.
        """
        if len(reason.strip()) not in REASON_CHARS:
            raise MisuseError(
                f"the reason has {len(reason.strip())} characters; say in 8 to 400 why"
            )
        alarm = self.store.find_alarm(alarm_id)
        if alarm is None:
            raise NotFoundError(f"no alarm {alarm_id}; `edgefleet drift alarms` lists them")
        if alarm.memory.state is AlarmState.CLOSED:
            raise RefusedError(f"alarm {alarm_id} is closed; there is nothing to look after")
        self.store.acknowledge(alarm_id, reason=reason.strip(), actor=actor, at=self.clock.now())
        acknowledged = self.store.find_alarm(alarm_id)
        return acknowledged or alarm
