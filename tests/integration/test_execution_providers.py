"""Which execution provider computes: wanted first, what works next, and said which it is."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from device_profiles.catalog import load_profile
from device_profiles.profile import DeviceProfile
from device_profiles.reference_suite import reference_graphs
from edge_agent.adapters.capability_probe import ChildProbe
from edge_agent.adapters.execution_providers import (
    COMPUTES_NOTHING,
    CPU_ONLY,
    NOT_BUILT_IN,
    NOT_COME_UP,
    ProviderWish,
    make_session,
)
from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.self_test import run_self_test
from edge_agent.contract.codes import Code
from edge_agent.core.checkup import judge_capabilities
from edge_agent.errors import PackageError
from edge_agent.ports import SelfTestLimits
from tests.support.serving import build_classifier

CPU = "CPUExecutionProvider"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
WISH = ProviderWish(names=(TENSORRT, CUDA, CPU))
LIMITS = SelfTestLimits(latency_ms_p95_max=1_000.0, rss_bytes_max=2**30)
MODEL = reference_graphs()["call"][0]


def load(wish: ProviderWish) -> Any:
    return make_session(MODEL, onnxruntime.SessionOptions(), wish)


def test_a_profile_that_lists_cuda_first_serves_on_the_cpu_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    built = build_classifier()
    with caplog.at_level(logging.WARNING):
        model = LoadedModel.from_package(built.blob, built.sha256, RuntimeOptions(providers=WISH))
    assert model.provider == CPU
    assert f"{CPU} computes" in caplog.text
    assert NOT_BUILT_IN in caplog.text
    _, served = load(WISH)
    assert served.passed_over == {TENSORRT: NOT_BUILT_IN, CUDA: NOT_BUILT_IN}


def test_the_self_test_fails_when_the_required_provider_is_not_there(tmp_path: Path) -> None:
    built = build_classifier()
    path = tmp_path / built.sha256
    path.write_bytes(built.blob)
    assert run_self_test(path, built.sha256, LIMITS, 1, providers=WISH).ok
    required = replace(WISH, is_required=True)
    result = run_self_test(path, built.sha256, LIMITS, 1, providers=required)
    assert (result.ok, result.code) == (False, Code.SELFTEST_LOAD)
    assert result.detail == f"the profile requires {TENSORRT}: {NOT_BUILT_IN}"


def test_the_device_reports_which_provider_came_up(tmp_path: Path) -> None:
    assert "provider" not in ChildProbe(tmp_path).probe()
    found = ChildProbe(tmp_path, wish=WISH).probe()
    assert found["provider"] == CPU
    assert set(found["passed_over"]) == {TENSORRT, CUDA}
    assert f"not with {CUDA}" in judge_capabilities(found).detail


def test_a_wish_comes_from_the_profile_and_crosses_to_a_child() -> None:
    table = load_profile("onprem-server").to_table() | {
        "providers": [CUDA, CPU],
        "provider_options": {CUDA: {"device_id": 1, "use_tf32": False}},
        "require_provider": True,
    }
    wish = ProviderWish.of(DeviceProfile.from_table(table, source="p.toml"))
    assert wish.options[CUDA] == {"device_id": "1", "use_tf32": "false"}
    assert ProviderWish.from_json(json.loads(json.dumps(wish.to_json()))) == wish
    assert ProviderWish.of(load_profile("camera")) == CPU_ONLY


class FakeRuntime:
    """Offers providers; some fail loudly, some do not come up without a word."""

    def __init__(
        self, *, loud: Sequence[str] = (), silent: Sequence[str] = (), idle: Sequence[str] = ()
    ) -> None:
        self.loud, self.silent, self.idle = loud, silent, idle
        self.tried: list[Any] = []

    def make(self, *_: Any, providers: list[tuple[str, Any]], enable_fallback: int) -> Any:
        assert enable_fallback == 0, "the runtime's own fallback prints on stdout"
        names = [name for name, _ in providers]
        self.tried.append(providers)
        if names[0] in self.loud:
            raise RuntimeError(f"{names[0]} has no driver")
        came_up = [name for name in names if name not in self.silent]
        work = [SimpleNamespace(ep_name=name) for name in came_up if name not in self.idle]
        return SimpleNamespace(
            get_providers=lambda: came_up, get_provider_graph_assignment_info=lambda: work
        )


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(fake: FakeRuntime) -> FakeRuntime:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", fake.make)
        return fake

    return put


def test_the_first_that_works_serves_with_its_options(runtime: Any) -> None:
    fake = runtime(FakeRuntime())
    _, served = load(replace(WISH, options={CUDA: {"device_id": "1"}}))
    assert (served.provider, dict(served.passed_over)) == (TENSORRT, {})
    assert fake.tried == [[(TENSORRT, {}), (CUDA, {"device_id": "1"}), (CPU, {})]]


def test_one_that_fails_makes_room_for_the_next(runtime: Any) -> None:
    runtime(FakeRuntime(loud=[TENSORRT]))
    _, served = load(WISH)
    assert served.provider == CUDA
    assert served.passed_over == {TENSORRT: f"{TENSORRT} has no driver"}


def test_one_that_does_not_come_up_without_a_word_is_noticed(runtime: Any) -> None:
    runtime(FakeRuntime(loud=[TENSORRT], silent=[CUDA]))
    _, served = load(WISH)
    assert served.provider == CPU
    assert served.passed_over[CUDA] == NOT_COME_UP


def test_one_that_has_none_of_the_operators_does_not_count_as_serving(runtime: Any) -> None:
    runtime(FakeRuntime(idle=[TENSORRT]))
    _, served = load(WISH)
    assert (served.provider, served.passed_over) == (CUDA, {TENSORRT: COMPUTES_NOTHING})


@pytest.mark.parametrize("way", ["loud", "silent", "idle"])
def test_a_required_one_that_does_not_serve_is_an_error(runtime: Any, way: str) -> None:
    runtime(FakeRuntime(**{way: [TENSORRT]}))
    with pytest.raises(PackageError, match=f"requires {TENSORRT}") as caught:
        load(replace(WISH, is_required=True))
    assert caught.value.code is Code.SELFTEST_LOAD


def test_a_required_one_that_serves_is_fine(runtime: Any) -> None:
    runtime(FakeRuntime())
    _, served = load(replace(WISH, is_required=True))
    assert served.provider == TENSORRT


def test_what_not_even_the_cpu_loads_is_the_graphs_own_fault() -> None:
    for wish in (WISH, CPU_ONLY, replace(CPU_ONLY, is_required=True)):
        with pytest.raises(Exception, match="protobuf parsing failed"):
            make_session(b"nonsense", onnxruntime.SessionOptions(), wish)
