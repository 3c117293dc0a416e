"""What ``edge-agent doctor`` concludes from what was seen; pure.

Each conclusion names what was found, what is needed and the next step. Wheels are judged by what
the pinned releases of numpy and onnxruntime are published for; whether they truly run here is tried
in a child process (``adapters/device_checks.py``), this only says why they would not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

PYTHONS = ((3, 11), (3, 12), (3, 13))
MACHINES = ("x86_64", "aarch64")
LIBC_MIN = (2, 28)
X86_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})
"""What numpy's wheels are built for; without it they refuse to load."""
DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instructions that add products of bytes."""
SKEW_WARNED, SKEW_MAX = timedelta(minutes=1), timedelta(hours=1)
DISK_BYTES_MIN = 67_108_864
INODES_MIN = 1_000
MEMORY_BYTES_MIN = 134_217_728
SUPPORTED = "see docs/support_matrix.md for what is supported"


class Level(StrEnum):
    """How bad a finding is; only ``bad`` makes doctor fail."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        level: How bad it is.
        detail: What was found, and what is needed.
        next_step: What to do; empty when nothing is to be done.
        is_unreachable: Another machine does not answer.
        capabilities: What the device is, as its reports say; only where that was looked at.
    """

    name: str
    level: Level
    detail: str
    next_step: str = ""
    is_unreachable: bool = False
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_bad(self) -> bool:
        """Whether doctor fails for it."""
        return self.level is Level.BAD

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form; its names are stable."""
        return {
            "check": self.name,
            "ok": not self.is_bad,
            "level": str(self.level),
            "detail": self.detail,
            "next": self.next_step,
            **({"capabilities": dict(self.capabilities)} if self.capabilities else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What this system is.

    Attributes:
        python: Major and minor version.
        implementation: ``CPython`` and others.
        machine: As the kernel names it.
        bits: Of a pointer of this Python.
        libc: Name of the C library; empty when it is not glibc.
        libc_version: Its version; empty when unknown.
        flags: Of the processor; empty when unknown.
    """

    python: tuple[int, int]
    implementation: str
    machine: str
    bits: int
    libc: str
    libc_version: str
    flags: frozenset[str]


def judge_platform(found: Platform) -> list[Check]:
    """Judge whether the wheels of numpy and onnxruntime exist for this system and can run."""
    return [_judge_python(found), _judge_machine(found), _judge_libc(found), _judge_flags(found)]


def judge_capabilities(found: Mapping[str, Any]) -> Check:
    """Say what the runtime here offers; its faults are another check's."""
    name = "runs"
    if fault := str(found.get("runtime_fault", "")):
        step = f"see the check of the runtime; {SUPPORTED}"
        return Check(name=name, level=Level.BAD, detail=fault, next_step=step, capabilities=found)
    parts = [f"onnxruntime {found.get('onnxruntime', 'unknown')}"]
    for key, words in (("opset_max", "opset"), ("opset_ml_max", "ml opset"), ("ir_max", "IR")):
        if key in found:
            parts.append(f"{words} up to {found[key]}")
    flags = DOT_PRODUCTS & frozenset(found.get("cpu_flags", ()))
    parts.append(f"int8 by {', '.join(sorted(flags))}" if flags else "no int8 dot products")
    parts.append(f"computes with {found.get('provider', 'CPUExecutionProvider')}")
    passed = found.get("passed_over", {})
    parts += [f"not with {provider}: {why}" for provider, why in passed.items()]
    return Check(name=name, level=Level.OK, detail=", ".join(parts), capabilities=found)


def judge_speed(ms: Mapping[str, float] | None, *, missing: str = "") -> Check:
    """Say how fast the reference graphs were, or that nobody measured.

    Args:
        ms: Of each graph; None when nobody measured.
        missing: The agent's directory when it is not there, so that nothing was kept.
    """
    if ms is None:
        step = "edge-agent doctor --calibrate, so that the server can estimate latencies here"
        return Check(name="speed", level=Level.OK, detail="never measured", next_step=step)
    figures = ", ".join(f"{name} {value:.3g}" for name, value in ms.items())
    detail = f"ms of the reference graphs: {figures}"
    step = f"{missing} is not there yet, so nothing is kept: measure again after joining"
    return Check(name="speed", level=Level.OK, detail=detail, next_step=step if missing else "")


def judge_skew(now_at: datetime, server_at: datetime, server: str) -> Check:
    """Judge this device's clock by its server's."""
    skew = now_at - server_at
    way = "ahead of" if skew > timedelta() else "behind"
    detail = f"{abs(skew).total_seconds():.0f} s {way} {server}"
    if abs(skew) <= SKEW_WARNED:
        return Check(name="skew", level=Level.OK, detail=detail)
    level = Level.BAD if abs(skew) > SKEW_MAX else Level.WARN
    step = "find out which of the two is wrong and set it (timedatectl set-ntp true)"
    return Check(name="skew", level=level, detail=detail, next_step=step)


def judge_disk(where: str, *, free_bytes: int, free_inodes: int | None) -> Check:
    """Judge the room for packages, telemetry and state."""
    need = DISK_BYTES_MIN // 2**20
    detail = f"{free_bytes // 2**20} MiB free at {where}, at least {need} are needed"
    if free_bytes < DISK_BYTES_MIN:
        step = "free some room there, or give the agent another --dir"
        return Check(name="disk", level=Level.BAD, detail=detail, next_step=step)
    if free_inodes is not None and free_inodes < INODES_MIN:
        detail = f"{free_inodes} files can still be made at {where}, {INODES_MIN} are needed"
        return Check(name="disk", level=Level.BAD, detail=detail, next_step="remove small files")
    return Check(name="disk", level=Level.OK, detail=detail)


def judge_memory(
    *, total_bytes: int | None, free_bytes: int | None, profile_bytes: int | None
) -> Check:
    """Judge the memory by the profile, or by what a small model needs."""
    if total_bytes is None:
        return Check(name="memory", level=Level.WARN, detail="how much there is, is not known")
    need = profile_bytes or MEMORY_BYTES_MIN
    detail = f"{total_bytes // 2**20} MiB in all"
    if free_bytes is not None:
        detail += f", {free_bytes // 2**20} MiB free"
    if total_bytes < need:
        whose = "the profile says" if profile_bytes else "the smallest model needs"
        detail += f"; {whose} {need // 2**20}"
        step = "raise the limit of the control group, or give the device a smaller profile"
        return Check(name="memory", level=Level.BAD, detail=detail, next_step=step)
    if free_bytes is not None and free_bytes < MEMORY_BYTES_MIN:
        step = f"end something: a small model takes about {MEMORY_BYTES_MIN // 2**20} MiB"
        return Check(name="memory", level=Level.WARN, detail=detail, next_step=step)
    return Check(name="memory", level=Level.OK, detail=detail)


def _judge_python(found: Platform) -> Check:
    version = ".".join(str(n) for n in found.python)
    detail = f"{found.implementation} {version}"
    if found.python in PYTHONS and found.implementation == "CPython":
        return Check(name="python", level=Level.OK, detail=detail)
    first, last = (".".join(str(n) for n in end) for end in (PYTHONS[0], PYTHONS[-1]))
    detail += f"; the agent needs CPython {first} to {last}"
    step = f"install python{last} and make the agent's environment with it"
    return Check(name="python", level=Level.BAD, detail=detail, next_step=step)


def _judge_machine(found: Platform) -> Check:
    detail = f"{found.machine}, {found.bits}-bit Python"
    if found.machine in MACHINES and found.bits == 64:
        return Check(name="machine", level=Level.OK, detail=detail)
    if found.machine in MACHINES:
        step = "install a 64-bit system: the kernel is one already, its programs are not"
    else:
        step = f"onnxruntime has no wheel for this machine; {SUPPORTED}"
    detail += f"; wheels exist for 64-bit {' and '.join(MACHINES)}"
    return Check(name="machine", level=Level.BAD, detail=detail, next_step=step)


def _judge_libc(found: Platform) -> Check:
    need = ".".join(str(n) for n in LIBC_MIN)
    if found.libc != "glibc":
        detail = f"no glibc found; the wheels need glibc {need} or newer"
        step = "use a system with glibc (Debian, Raspberry Pi OS, Ubuntu), not Alpine"
        return Check(name="libc", level=Level.BAD, detail=detail, next_step=step)
    detail = f"glibc {found.libc_version}"
    if _version(found.libc_version) >= LIBC_MIN:
        return Check(name="libc", level=Level.OK, detail=detail)
    detail += f"; the wheels need {need} or newer"
    step = "upgrade the system (Debian 10 and later have it)"
    return Check(name="libc", level=Level.BAD, detail=detail, next_step=step)


def _judge_flags(found: Platform) -> Check:
    name, flags = "processor", found.flags
    if not flags:
        return Check(name=name, level=Level.OK, detail="does not say what it can")
    if found.machine == "x86_64" and (missing := X86_V2 - flags):
        detail = f"lacks {', '.join(sorted(missing))}, which numpy's wheels need (x86-64-v2)"
        return Check(name=name, level=Level.BAD, detail=detail, next_step=SUPPORTED)
    if found.machine == "aarch64" and "asimddp" not in flags:
        detail = "no dot product instructions (asimddp): int8 is slower, some runtimes do not run"
        step = "pin the release of onnxruntime that docs/support_matrix.md names"
        return Check(name=name, level=Level.WARN, detail=detail, next_step=step)
    known = "x86-64-v2" if found.machine == "x86_64" else "asimd"
    return Check(name=name, level=Level.OK, detail=f"has {known} and {len(flags)} flags in all")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
