"""What devices counted of their latencies, read from the newest telemetry windows.

Windows hold counts of requests by latency bin, so a percentile is known as the bin it lies in.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import REFERENCE, unpack_members
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference, reference_hash
from edge_agent.statistics.varint import decode_counters
from fleet_server.core.profile_fit import Latency, LatencySource, Reported
from fleet_server.errors import FleetError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import PackageStore
from fleet_server.ports.telemetry import StoredWindow, WindowStore

LOOKED_BACK = timedelta(days=7)
WINDOWS_PER_DEVICE_MAX = 8
WINDOWS_MAX = 50_000
REQUESTS_MIN = 20
"""Below, a 95th percentile says nothing."""
SHARE = 0.95


class WindowLatencies:
    """The ``ReportedLatencies`` over the window store."""

    def __init__(self, windows: WindowStore, objects: PackageStore, clock: Clock) -> None:
        self._windows, self._objects, self._clock = windows, objects, clock

    def find(self, packages: Mapping[str, str]) -> Reported:
        """Find the 95th percentile by device and package; raises FleetError."""
        references = dict(self._read_references(packages.values()))
        if not references:
            return {}
        since = self._clock.now() - LOOKED_BACK
        counts: dict[tuple[int, str], NDArray[np.int64]] = {}
        for window in self._read(
            int(since.timestamp() * 1_000), {r for r, _ in references.values()}
        ):
            sha256 = packages.get(window.artifact)
            if sha256 is None or sha256 not in references:
                continue
            layout = CounterLayout.of(references[sha256][1])
            try:
                found = decode_counters(window.counters, layout.size)[layout.latency]
            except ContractError:
                continue
            key = (window.device, sha256)
            counts[key] = counts[key] + found if key in counts else found
        read = {
            key: find_percentile(found, references[key[1]][1].latency_edges_ms)
            for key, found in counts.items()
        }
        return {key: latency for key, latency in read.items() if latency is not None}

    def _read(self, since_ms: int, hashes: Collection[str]) -> Iterator[StoredWindow]:
        windows = self._windows.read_recent(
            since_ms, per_device_max=WINDOWS_PER_DEVICE_MAX, references=hashes
        )
        for number, window in enumerate(windows):
            if number >= WINDOWS_MAX:
                return
            yield window

    def _read_references(
        self, hashes: Collection[str]
    ) -> Iterator[tuple[str, tuple[str, Reference]]]:
        """Give the bins of each package; one that cannot be read reported nothing."""
        for sha256 in hashes:
            try:
                encoded = unpack_members(self._objects.read(sha256))[REFERENCE]
                yield sha256, (reference_hash(encoded).hex(), Reference.decode(encoded))
            except (ContractError, FleetError):
                continue


def find_percentile(counts: NDArray[np.int64], edges_ms: Collection[float]) -> Latency | None:
    """Find the bin that holds the 95th percentile; None from too few requests.

    The last bin has no upper end; its lower one is given for both.

    >>> find_percentile(np.array([90, 10, 0]), (1.0, 2.0)).low_ms
    1.0
    """
    total = int(counts.sum())
    if total < REQUESTS_MIN:
        return None
    bin_ = int(np.searchsorted(np.cumsum(counts), SHARE * total))
    edges = [0.0, *edges_ms]
    low = edges[bin_]
    high = edges[bin_ + 1] if bin_ + 1 < len(edges) else low
    return Latency(ms=high, low_ms=low, high_ms=high, source=LatencySource.REPORTED, requests=total)
