"""How agents answer: beside MLServer, and through updates."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.agent_figures import Figure, Goal, say
from benchmarks.agent_http import Seen, load, load_for
from benchmarks.agent_installs import CannotInstallError, environment
from benchmarks.agent_memory import MEBI, descendants, group_bytes
from benchmarks.agent_servers import Device, Lab, mlserver, pinned
from device_profiles.profile import Serving

ROUNDS = 2
"""Of alternating slices; the better of each counts, as other work only takes away."""
P50_GOAL, PER_S_GOAL, MEMORY_GOAL = 0.30, 5.0, 0.5
SWAP_CONNECTIONS = 4
CALM_S_MAX = 20.0


def measure_http(
    agents: Mapping[Serving, Device], blob: bytes, folder: Path, request: bytes, seconds: float
) -> Iterator[Figure]:
    """The agents and MLServer in turns, from the same client; the servers share one core."""
    try:
        python = environment("mlserver")
    except CannotInstallError as error:
        say(f"MLServer is left out, it cannot be installed here: {error}")
        return
    found: dict[tuple[str, int], Seen] = {}
    with mlserver(python, blob, folder, request) as (pid, port):
        ports = {"mlserver": port} | {str(place): each.port for place, each in agents.items()}
        with pinned([pid, *(agent.process.pid for agent in agents.values())]):
            for connections in (1, 16) * ROUNDS:
                for name, at in ports.items():
                    seen = load_for(at, request, connections=connections, seconds=seconds)
                    check(seen, name)
                    kept = found.get((name, connections))
                    if kept is None or seen.per_s > kept.per_s:
                        found[name, connections] = seen
        memory = {"mlserver": group_bytes(descendants(pid))}
        memory |= {str(place): group_bytes(agent.pids()) for place, agent in agents.items()}
    for place in map(str, agents):
        for connections in (1, 16):
            own, other = found[place, connections], found["mlserver", connections]
            name = f"{place}.{connections}"
            p50_goal = Goal(limit=P50_GOAL) if connections == 1 else None
            per_s_goal = Goal(limit=PER_S_GOAL, is_most=False) if connections == 16 else None
            yield Figure(f"agent.http_p50_us.{name}", us(own, 50), us(other, 50), p50_goal)
            yield Figure(f"agent.http_p99_us.{name}", us(own, 99), us(other, 99))
            yield Figure(f"agent.http_per_s.{name}", own.per_s, other.per_s, per_s_goal)
        yield Figure(
            f"agent.memory_mb.{place}.to_mlserver",
            memory[place] / MEBI,
            memory["mlserver"] / MEBI,
            Goal(limit=MEMORY_GOAL),
        )


def measure_swaps(
    lab: Lab, agent: Device, blobs: Sequence[bytes], first: int, request: bytes
) -> Iterator[Figure]:
    """Ask through updates of an agent, one for each blob; the floor is as long without any."""
    over, began = threading.Event(), time.perf_counter()

    def update() -> None:
        try:
            for number, blob in enumerate(blobs, first):
                target = lab.release("lr20", number, blob)
                lab.wish(agent.id, target)
                lab.wait_for_slot(agent.id, "confirmed", target, timeout_s=60)
            if agent.place is Serving.IN_PROCESS:
                agent.wait_until_inside()
        finally:
            over.set()

    thread = threading.Thread(target=update)
    thread.start()
    seen = load(agent.port, request, connections=SWAP_CONNECTIONS, is_over=lambda _: over.is_set())
    thread.join()
    seconds = min(time.perf_counter() - began, CALM_S_MAX)
    calm = load_for(agent.port, request, connections=SWAP_CONNECTIONS, seconds=seconds)
    check(calm, "without a swap")
    place = str(agent.place)
    say(f"{place}: {len(seen.latencies_s)} answers through {len(blobs)} swaps; {seen.reasons}")
    yield Figure(
        f"agent.swap_failed_requests.{place}",
        seen.failures,
        None,
        Goal(limit=0.0, is_ratio=False),
    )
    yield Figure(f"agent.swap_longest_gap_ms.{place}", seen.gap_s * 1e3, calm.gap_s * 1e3)
    yield Figure(f"agent.swap_p99_us.{place}", us(seen, 99), us(calm, 99))


def us(seen: Seen, share: int) -> float:
    """Return a percentile of the latencies, microseconds."""
    return float(np.percentile(seen.latencies_s, share)) * 1e6


def check(seen: Seen, name: str) -> None:
    """Stop where a figure would be of failures; raises RuntimeError."""
    if seen.failures or not seen.latencies_s:
        raise RuntimeError(f"{name}: {seen.failures} requests failed: {seen.reasons}")
