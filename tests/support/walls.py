"""Run a program behind the walls of a systemd unit, without systemd: its system call filters.

    python -m tests.support.walls UNIT PROGRAM [ARGUMENT ...]

Applies what the unit says of SystemCallFilter, RestrictAddressFamilies and MemoryDenyWriteExecute
with libseccomp, as systemd 252 does, then becomes the program. Groups of calls are expanded by
``systemd-analyze``. What needs namespaces (ProtectSystem and others) is left out.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

ALLOW = 0x7FFF0000
MASKED_EQUAL = 7
PROT_WRITE, PROT_EXEC = 2, 4
NO_NEW_PRIVS = 38


class Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class Filter:
    """One seccomp filter; several add up."""

    def __init__(self, library: ctypes.CDLL, default: int) -> None:
        self._lib = library
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = [ctypes.c_uint32]
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(Compare),
        ]
        library.seccomp_load.argtypes = [ctypes.c_void_p]
        self._context = library.seccomp_init(default)

    def add(self, action: int, call: str, *compares: Compare) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:  # what another machine has is no call here
            array = (Compare * max(1, len(compares)))(*compares)
            done = self._lib.seccomp_rule_add_array(
                self._context, action, number, len(compares), array
            )
            assert done in (0, -errno.EEXIST), (call, done)

    def load(self) -> None:
        assert self._lib.seccomp_load(self._context) == 0


def refuse(number: int) -> int:
    return 0x00050000 | number


def settings_of(unit: Path) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def calls_of(lines: list[str]) -> set[str]:
    allowed: set[str] = set()
    for line in lines:
        is_taken_away = line.startswith("~")
        for name in line.removeprefix("~").split():
            calls = expand(name)
            allowed = allowed - calls if is_taken_away else allowed | calls
    return allowed | expand("@default")  # systemd allows these always


def expand(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.strip() for line in listed.splitlines()[1:]]
    return set().union(*(expand(n) for n in names if n and not n.startswith("#")))


def build_walls(settings: dict[str, list[str]]) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    ctypes.CDLL(None).prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    if "true" in settings.get("MemoryDenyWriteExecute", []):
        memory, both = Filter(library, ALLOW), PROT_WRITE | PROT_EXEC
        memory.add(refuse(errno.EPERM), "mmap", Compare(2, MASKED_EQUAL, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            memory.add(refuse(errno.EPERM), call, Compare(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        memory.load()
    families = settings.get("RestrictAddressFamilies")
    if families:
        known = [getattr(socket, name) for name in families[0].split()]
        sockets = Filter(library, ALLOW)
        for family in range(64):
            if family not in known:
                sockets.add(
                    refuse(errno.EAFNOSUPPORT),
                    "socket",
                    Compare(0, MASKED_EQUAL, 0xFFFFFFFF, family),
                )
        sockets.load()
    calls = Filter(library, refuse(errno.EPERM))
    for name in sorted(calls_of(settings["SystemCallFilter"])):
        calls.add(ALLOW, name)
    calls.load()


def main() -> None:
    unit, *command = sys.argv[1:]
    build_walls(settings_of(Path(unit)))
    os.execv(command[0], command)  # noqa: S606 - the test's own program


if __name__ == "__main__":
    main()
