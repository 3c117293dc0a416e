"""What a device's interpreter loads: no server or training library, whatever it imports of ours.

Each case is a fresh interpreter, because Python runs parents' ``__init__`` unseen by the linter.
"""

import subprocess
import sys

import pytest

from edge_agent.adapters.chance import random_bits, random_bytes, random_share

NEVER_ON_A_DEVICE = [
    "fastapi",
    "sqlmodel",
    "pydantic",
    "onnx",
    "skl2onnx",
    "sklearn",
    "typer",
    "rich",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "pyarrow",
    "orjson",
    "fleet_server",
    "converters",
    "simulators",
]
HEAVY = ["numpy", "onnxruntime", "paho", "tuf", "cryptography"]


def loaded_by(module: str, names: list[str]) -> list[str]:
    program = f"import sys, {module}; print([n for n in {names!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded: list[str] = eval(done.stdout)  # noqa: S307 - our own list of our own names
    return loaded


@pytest.mark.parametrize(
    "module",
    ["edge_agent.cli", "edge_agent.bootstrap", "edge_agent.local_predict", "edge_agent.doctor"],
)
def test_the_agent_loads_no_server_or_training_library(module: str) -> None:
    assert loaded_by(module, NEVER_ON_A_DEVICE) == []


@pytest.mark.parametrize("module", ["edge_agent", "edge_agent.cli", "edge_agent.contract.messages"])
def test_the_command_line_and_the_contract_load_nothing_heavy(module: str) -> None:
    assert loaded_by(module, [*NEVER_ON_A_DEVICE, *HEAVY]) == []


RUN = "edge_agent.cli, edge_agent.adapters.log_output, edge_agent.bootstrap"
"""What ``edge-agent run`` loads, in its order."""


def test_the_agents_own_process_loads_neither_runtime_nor_numpy_nor_a_server() -> None:
    serving = ["onnxruntime", "numpy", "asyncio", "edge_agent.adapters.inference_service"]
    assert loaded_by(RUN, serving) == []


@pytest.mark.parametrize(
    "name",
    [
        *("tuf", "securesystemslib", "cryptography", "urllib3"),  # in the process of trust
        *("urllib.request", "http.client", "email"),
        *("importlib.metadata", "zipfile", "tarfile", "csv", "shutil", "tempfile", "difflib"),
        *("logging.handlers", "ctypes", "calendar"),
        *("inspect", "ast", "dis", "random", "secrets", "edge_agent.adapters.http_parser"),
        *("argparse", "gettext", "unicodedata"),
    ],
)
def test_the_agents_own_process_stays_small(name: str, loaded_by_run: set[str]) -> None:
    assert name not in loaded_by_run


@pytest.fixture(scope="module")
def loaded_by_run() -> set[str]:
    return all_loaded_by(RUN)


def all_loaded_by(modules: str) -> set[str]:
    """Return all modules; those that are only announced (``lean.defer``) are none."""
    program = f"import sys, {modules}\nfor n, m in tuple(sys.modules.items()):"
    program += "\n if type(m).__name__ != '_Deferred': print(n)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "name",
    [
        *("ssl", "_ssl", "tarfile", "difflib", "tomllib", "email"),
        *("inspect", "ast", "dis", "tokenize", "zipfile", "random", "secrets", "hmac"),
        *("hashlib", "_hashlib"),
        *("subprocess", "asyncio.streams", "asyncio.unix_events", "asyncio.subprocess"),
        *("numpy._core._add_newdocs", "PIL"),
        *(f"edge_agent.contract.{x}" for x in ("assignment", "messages", "shadow", "rows")),
        *("edge_agent.contract.transfer", "edge_agent.core.release", "edge_agent.core.verified"),
        *("edge_agent.adapters.row_sampler", "edge_agent.adapters.picture_reader"),
    ],
)
def test_what_serves_without_tls_stays_small(name: str, loaded_by_worker: set[str]) -> None:
    assert name not in loaded_by_worker


@pytest.fixture(scope="module")
def loaded_by_worker() -> set[str]:
    return all_loaded_by("edge_agent.serving_worker_plain")


def test_what_a_small_process_left_out_is_whole_when_it_is_loaded_later() -> None:
    program = """
import edge_agent.serving_worker_plain
import asyncio.streams, asyncio.queues, inspect, subprocess, ssl, numpy, numpy.ma, numpy.random
assert asyncio.streams.StreamReader and asyncio.queues.Queue and ssl.SSLContext
assert subprocess.run(['true'], stdout=subprocess.PIPE).returncode == 0
assert "where" in str(inspect.signature(numpy.mean)) and inspect.cleandoc("  a") == "a"
assert numpy.ma.masked_array([1, 3], mask=[0, 1]).mean() == 1
assert 0 <= numpy.random.default_rng(1).random() < 1
assert list(numpy.concatenate([[1], [2]])) == [1, 2]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_a_childs_output_needs_no_compressor() -> None:
    program = """
import sys
from edge_agent.adapters.files import open_scratch
with open_scratch() as file:
    file.write(b"said")
    file.seek(0)
    assert file.read() == b"said"
print([n for n in ("tempfile", "shutil", "random", "lzma") if n in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_random_numbers_fill_their_range() -> None:
    bits = [random_bits(63) for _ in range(200)]
    assert all(0 <= one < 1 << 63 for one in bits)
    assert max(bits) > 1 << 62
    assert len(set(bits)) == 200
    assert {random_bits(1) for _ in range(200)} == {0, 1}
    shares = [random_share() for _ in range(200)]
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) < 1
    assert len(random_bytes(16)) == 16


def test_what_is_announced_is_there_when_it_is_used() -> None:
    program = """
from edge_agent.adapters import fewer_imports
import sys, uuid, urllib.request, pickle
assert type(uuid).__name__ == "_Deferred"
assert len(str(uuid.uuid4())) == 36
assert urllib.request.getproxies is not None
assert "ProxyHandler" in dir(sys.modules["urllib.request"])
assert pickle.dumps(1)
from ipaddress import ip_address
assert ip_address("::1").is_loopback
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_serves_loads_the_runtime_only_with_a_model() -> None:
    never = ["onnxruntime", "paho", "tuf", "cryptography"]
    assert loaded_by("edge_agent.serving_worker", never) == []


def test_the_core_loads_no_outside_library() -> None:
    modules = "edge_agent.core.update_machine, edge_agent.core.changes"
    assert loaded_by(modules, [*NEVER_ON_A_DEVICE, *HEAVY]) == []
