"""Collect each device's newest windows of each model, decoded and checked."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import ContractError
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference, reference_hash
from edge_agent.statistics.varint import decode_counters
from fleet_server.core.drift_counts import HORIZONS, DeviceWindows
from fleet_server.errors import FleetError
from fleet_server.ports.drift import ReferenceSource, WatchedPackage, WindowReader
from fleet_server.ports.telemetry import StoredWindow

REFERENCES_REMEMBERED = 256
DECODED_BYTES_MAX = 67_108_864
"""Decoded windows kept from one run to the next; what does not fit is decoded again."""
ARTIFACT_DIGITS = 16
"""Hex digits of a package's sha256 that a window carries."""

_WindowKey = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was read.

    Attributes:
        devices: By model.
        windows: Windows taken.
        unreadable: Windows whose counters do not fit their reference.
        unknown: Windows of packages or devices that are not registered here.
        problems: References that could not be read, a sentence each.
    """

    devices: Mapping[str, Sequence[DeviceWindows]]
    windows: int
    unreadable: int
    unknown: int
    problems: Sequence[str]


class WindowCollector:
    """Reads windows; each package's reference is opened once."""

    def __init__(self, reader: WindowReader, references: ReferenceSource) -> None:
        self._reader = reader
        self._source = references
        self._load = lru_cache(maxsize=REFERENCES_REMEMBERED)(self._read_reference)
        self._decoded: dict[_WindowKey, NDArray[np.int64]] = {}

    def collect(
        self,
        packages: Sequence[WatchedPackage],
        device_ids: Mapping[int, str],
        *,
        since_ms: int,
    ) -> Collected:
        """Read at most 64 windows a device and model, all under its newest window's reference.

        Args:
            packages: Every registered one.
            device_ids: Of the devices that are watched, by number.
            since_ms: Windows that began earlier are not looked at.
        """
        by_artifact = {package.sha256[:ARTIFACT_DIGITS]: package for package in packages}
        wanted = sorted({package.reference_hash for package in packages})
        taken: dict[tuple[str, int], list[StoredWindow]] = defaultdict(list)
        sources: dict[tuple[str, int], WatchedPackage] = {}
        unknown = 0
        if wanted:
            for window in self._reader.read_recent(
                since_ms, per_device_max=HORIZONS[-1], references=wanted
            ):
                package = by_artifact.get(window.artifact)
                if package is None or window.device not in device_ids:
                    unknown += 1
                    continue
                key = (package.model, window.device)
                newest = sources.setdefault(key, package)
                is_same = window.reference == newest.reference_hash
                if is_same and len(taken[key]) < HORIZONS[-1]:
                    taken[key].append(window)
        decoder = _Decoder(self._decoded)
        devices: dict[str, list[DeviceWindows]] = defaultdict(list)
        problems: dict[str, str] = {}
        windows = unreadable = 0
        for (model, number), found in taken.items():
            package = sources[model, number]
            try:
                reference = self._load(package.sha256, package.reference_hash)
            except (ContractError, FleetError) as error:
                problems[package.sha256] = f"{model} {package.version}: {error}"
                continue
            device = decoder.decode(device_ids[number], reference, found)
            kept = 0 if device is None else len(device.counters)
            windows, unreadable = windows + kept, unreadable + len(found) - kept
            if device is not None:
                devices[model].append(device)
        self._decoded = decoder.kept
        return Collected(
            devices=devices,
            windows=windows,
            unreadable=unreadable,
            unknown=unknown,
            problems=tuple(problems.values()),
        )

    def _read_reference(self, sha256: str, expected_hash: str) -> Reference:
        encoded = self._source.read_reference(sha256)
        if reference_hash(encoded).hex() != expected_hash:
            raise FleetError(f"the drift reference of package {sha256[:12]} is not the registered")
        return Reference.decode(encoded)


class _Decoder:
    """Decodes windows, reusing what the last run decoded: a window's bytes never change."""

    def __init__(self, known: Mapping[_WindowKey, NDArray[np.int64]]) -> None:
        self._known = known
        self._room_bytes = DECODED_BYTES_MAX
        self.kept: dict[_WindowKey, NDArray[np.int64]] = {}

    def decode(
        self, device_id: str, reference: Reference, windows: Sequence[StoredWindow]
    ) -> DeviceWindows | None:
        """Decode one device's windows; None when none of them fits the reference."""
        size = CounterLayout.of(reference).size
        counters, fitting = [], []
        for window in windows:
            try:
                counters.append(self._decode(window, size))
            except ContractError:
                continue
            fitting.append(window)
        if not fitting:
            return None
        return DeviceWindows(
            device_id=device_id,
            reference=reference,
            counters=np.array(counters),
            t0_ms=np.array([window.t0_ms for window in fitting], np.int64),
            t1_ms=np.array([window.t1_ms for window in fitting], np.int64),
        )

    def _decode(self, window: StoredWindow, size: int) -> NDArray[np.int64]:
        key = (window.device, window.boot, window.stream, window.sequence, window.t0_ms)
        counters = self._known.get(key)
        if counters is None:
            counters = decode_counters(window.counters, size)
        if counters.nbytes <= self._room_bytes:
            self._room_bytes -= counters.nbytes
            self.kept[key] = counters
        return counters
