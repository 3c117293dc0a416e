"""What a device's interpreter loads: no server or training library, whatever it imports of ours.

Each case is a fresh interpreter, because Python runs parents' ``__init__`` unseen by the linter.
"""

import subprocess
import sys

import pytest

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


def test_the_agents_own_process_loads_neither_runtime_nor_numpy_nor_a_server() -> None:
    serving = ["onnxruntime", "numpy", "asyncio", "edge_agent.adapters.inference_service"]
    assert loaded_by("edge_agent.bootstrap", serving) == []


def test_what_serves_loads_the_runtime_only_with_a_model() -> None:
    never = ["onnxruntime", "paho", "tuf", "cryptography"]
    assert loaded_by("edge_agent.serving_worker", never) == []


def test_the_core_loads_no_outside_library() -> None:
    modules = "edge_agent.core.update_machine, edge_agent.core.changes"
    assert loaded_by(modules, [*NEVER_ON_A_DEVICE, *HEAVY]) == []
