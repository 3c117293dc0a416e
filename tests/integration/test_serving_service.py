"""Slots, swaps, telemetry windows and probation statistics on the real runtime."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_agent.adapters.inference_service import InferenceService
from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.served_model import ROWS_PER_REQUEST_MAX
from edge_agent.adapters.telemetry_recorder import SMALL_REQUEST_BYTES, WindowLimits
from edge_agent.adapters.waiting_windows import WINDOWS_WAITING_MAX
from edge_agent.client import LocalModel
from edge_agent.contract.codes import Code
from edge_agent.contract.windows import Window
from edge_agent.errors import (
    InferenceError,
    InputError,
    OutboxError,
    PackageError,
    StoppedModelError,
    UnknownModelError,
)
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference, build_reference
from edge_agent.statistics.varint import decode_counters
from tests.support.clock import FakeClock
from tests.support.serving import (
    CLASSES,
    TARGET,
    BuiltPackage,
    activate,
    build_classifier,
    build_regressor,
    make_service,
)

BUILT = build_classifier()
OTHER = build_classifier(seed=1)


def windows_of(outbox: Outbox) -> list[Window]:
    return [window for _, window in outbox.pending(10_000)]


def reference_of(built: BuiltPackage) -> Reference:
    service = make_service()
    activate(service, built)
    return service.find("main").recorder._model.reference


def counters_of(window: Window, built: BuiltPackage = BUILT) -> np.ndarray:
    return decode_counters(window.counters, CounterLayout.of(reference_of(built)).size)


# Answers ------------------------------------------------------------------------------------------


def test_a_prediction_tells_classes_target_and_a_name_of_its_own() -> None:
    service = make_service(boot=0xABC)
    activate(service, BUILT)
    first, second = (service.predict("main", BUILT.rows[:3]) for _ in range(2))
    assert first.class_names == [CLASSES[n] for n in first.outputs["label"]]
    assert first.target == TARGET
    assert [first.prediction_id, second.prediction_id] == [
        "0000000000000abc-0-0",
        "0000000000000abc-0-1",
    ]


def test_a_regression_is_served_as_well() -> None:
    service, built = make_service(), build_regressor()
    activate(service, built, target="load/1/camera.tar")
    answer = service.predict("main", built.rows[:5])
    assert answer.outputs["value"].shape == (5,)
    assert answer.class_names == []
    assert service.probation_stats("main").rows == 5


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.zeros((1, 4), np.float64), "float64"),
        (np.zeros((1, 5), np.float32), r"rows, 4\], got float32 \[1, 5\]"),
        (np.zeros(4, np.float32), r"\[4\]"),
        (np.zeros((1, 4, 1), np.float32), r"\[1, 4, 1\]"),
        (np.float32(1), r"\[\]"),
        (np.zeros((0, 4), np.float32), "0 rows"),
        (np.zeros((ROWS_PER_REQUEST_MAX + 1, 4), np.float32), "4097 rows"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(features: np.ndarray, words: str) -> None:
    service = make_service()
    activate(service, BUILT)
    with pytest.raises(InputError, match=words):
        service.predict("main", features)
    assert service.probation_stats("main").requests == 0


def test_the_largest_request_is_answered() -> None:
    service = make_service()
    activate(service, BUILT)
    rows = np.zeros((ROWS_PER_REQUEST_MAX, 4), np.float32)
    assert len(service.predict("main", rows).outputs["label"]) == ROWS_PER_REQUEST_MAX


def test_a_strided_view_is_answered_and_counted_as_its_values() -> None:
    service = make_service()
    activate(service, BUILT)
    wide = np.repeat(BUILT.rows[:6], 2, axis=1)
    view = wide[::2, ::2]
    answer = service.predict("main", view)
    straight = service.predict("main", np.ascontiguousarray(view))
    assert answer.outputs["label"].tolist() == straight.outputs["label"].tolist()


def test_unknown_slots_and_ambiguous_models_are_named() -> None:
    service = make_service()
    with pytest.raises(UnknownModelError, match="answering now: none"):
        service.predict("main", BUILT.rows[:1])
    activate(service, BUILT, slot="left")
    assert service.find("plant").slot == "left"
    activate(service, BUILT, slot="right")
    with pytest.raises(UnknownModelError, match="slots left, right; name the slot"):
        service.find("plant")
    with pytest.raises(UnknownModelError, match="no slot or model 'x'; answering now: left"):
        service.find("x")


def test_records_by_name_are_answered_as_packed_rows() -> None:
    service = make_service()
    activate(service, BUILT)
    model = LocalModel(service, "main")
    row = [0.5, -1.0, 0.25, 2.0]
    record = {"f2": 0.25, "f0": 0.5, "f1": -1.0, "f3": 2.0}
    packed = model.predict(np.array([row], np.float32)).outputs["probabilities"]
    named = model.predict_records([record]).outputs["probabilities"]
    assert named.tolist() == packed.tolist()
    with pytest.raises(InputError, match=r"record 1: missing \['f3'\], unknown \['g'\]"):
        model.predict_records([record, {"f0": 1, "f1": 1, "f2": 1, "g": 1}])
    with pytest.raises(InputError, match="record 0"):
        model.predict_records([{**record, "f0": "warm"}])


# Swaps --------------------------------------------------------------------------------------------


def test_swaps_under_load_fail_no_request_and_lose_no_row() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    activate(service, BUILT)
    expected = {
        target: LocalModelAnswers(built)
        for target, built in ((TARGET, BUILT), ("plant/4/camera.tar", OTHER))
    }
    stop = threading.Event()
    answered: Counter[str] = Counter()

    def ask(seed: int) -> Counter[str]:
        rng, seen = np.random.default_rng(seed), Counter[str]()
        while not stop.is_set():
            rows = BUILT.rows[rng.integers(0, 400) :][: rng.integers(1, 5)]
            answer = service.predict("main", rows)
            expected[answer.target].check(rows, answer.outputs["label"])
            seen[answer.target] += len(rows)
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, seed) for seed in range(4)]
        for n in range(30):
            built, target = ((OTHER, "plant/4/camera.tar"), (BUILT, TARGET))[n % 2]
            activate(service, built, target=target)
            service.close_due()
        stop.set()
        for future in asking:
            answered += future.result()
    service.close()
    counted: Counter[str] = Counter()
    names = {
        bytes.fromhex(BUILT.sha256)[:8]: TARGET,
        bytes.fromhex(OTHER.sha256)[:8]: "plant/4/camera.tar",
    }
    windows = windows_of(outbox)
    for window in windows:
        counted[names[window.artifact]] += window.rows
    assert counted == answered
    assert min(answered.values()) > 0
    assert sorted(w.sequence for w in windows) == list(range(len(windows)))


class LocalModelAnswers:
    """What a package answers, told by a service of its own."""

    def __init__(self, built: BuiltPackage) -> None:
        service = make_service()
        activate(service, built)
        self._labels = {
            row.tobytes(): int(label)
            for row, label in zip(
                built.rows if built is BUILT else BUILT.rows,
                service.predict("main", BUILT.rows).outputs["label"],
                strict=True,
            )
        }

    def check(self, rows: np.ndarray, labels: np.ndarray) -> None:
        assert [self._labels[row.tobytes()] for row in rows] == labels.tolist()


def test_a_package_that_cannot_be_loaded_leaves_the_former_one_answering() -> None:
    service = make_service()
    activate(service, BUILT)
    with pytest.raises(PackageError) as caught:
        service.activate("main", blob=OTHER.blob, target=TARGET, sha256=BUILT.sha256)
    assert caught.value.code is Code.BLOB_HASH
    with pytest.raises(PackageError, match="MODEL/VERSION"):
        service.activate("main", blob=OTHER.blob, target="x", sha256=OTHER.sha256)
    assert service.predict("main", BUILT.rows[:1]).served.sha256 == BUILT.sha256


def test_services_may_share_a_loaded_model_and_still_count_apart() -> None:
    model = LoadedModel.from_package(BUILT.blob, BUILT.sha256)
    services = [
        InferenceService(
            clock=FakeClock(),
            outbox=Outbox(None),
            boot=n,
            windows=WindowLimits(),
            options=RuntimeOptions(),
            load=lambda *_: model,
        )
        for n in range(2)
    ]
    for rows, service in enumerate(services, start=1):
        activate(service, BUILT)
        service.predict("main", BUILT.rows[:rows])
    assert [s.probation_stats("main").rows for s in services] == [1, 2]


def test_a_slot_that_was_stopped_says_why_until_it_answers_again() -> None:
    service = make_service()
    activate(service, BUILT)
    service.deactivate("main", reason="digits/1 was withdrawn")
    with pytest.raises(StoppedModelError, match="'main' answers nothing: digits/1 was withdrawn"):
        service.predict("main", BUILT.rows[:1])
    activate(service, BUILT)
    service.predict("main", BUILT.rows[:1])
    service.deactivate("main")
    with pytest.raises(UnknownModelError):
        service.predict("main", BUILT.rows[:1])


def test_a_deactivated_slot_answers_no_more_and_its_rows_are_kept() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    activate(service, BUILT)
    service.predict("main", BUILT.rows[:7])
    service.deactivate("main")
    service.deactivate("main")
    with pytest.raises(UnknownModelError):
        service.predict("main", BUILT.rows[:1])
    service.close_due()
    assert [w.rows for w in windows_of(outbox)] == [7]


# Windows ------------------------------------------------------------------------------------------


def test_a_window_is_closed_when_its_time_is_over() -> None:
    clock, outbox = FakeClock(), Outbox(None)
    service = make_service(clock=clock, outbox=outbox, windows=WindowLimits(window_s=60))
    activate(service, BUILT)
    clock.advance(30)
    service.predict("main", BUILT.rows[:2])
    start_ms = int(clock.now().timestamp() * 1_000)
    for seconds, windows in ((59, 0), (1, 1), (600, 1)):
        clock.advance(seconds)
        service.close_due()
        assert len(windows_of(outbox)) == windows
    (window,) = windows_of(outbox)
    assert (window.t0_ms, window.t1_ms) == (start_ms, start_ms + 60_000)
    assert (window.stream, window.sequence, window.rows) == (0, 0, 2)
    assert window.artifact.hex() == BUILT.sha256[:16]


def test_a_window_is_closed_when_it_is_full() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox, windows=WindowLimits(window_rows_max=10))
    activate(service, BUILT)
    for n in range(25):
        service.predict("main", BUILT.rows[n : n + 1])
    service.close_due()
    assert [w.rows for w in windows_of(outbox)] == [10, 10]
    service.close()
    assert [w.rows for w in windows_of(outbox)] == [10, 10, 5]
    assert [w.sequence for w in windows_of(outbox)] == [0, 1, 2]


def test_the_counters_of_single_rows_are_those_of_the_batch() -> None:
    # The training rows through a window of single requests give the reference's own counts.
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    activate(service, BUILT)
    for row in BUILT.rows:
        service.predict("main", row[None])
    service.close()
    (window,) = windows_of(outbox)
    reference = reference_of(BUILT)
    layout, counters = CounterLayout.of(reference), counters_of(window)
    for feature, at in zip(reference.features, layout.features, strict=True):
        assert tuple(counters[at]) == feature.counts
    assert tuple(counters[layout.output]) == reference.output.counts
    assert counters[layout.latency].sum() == len(BUILT.rows) == window.rows
    assert counters[layout.errors] == counters[layout.non_finite] == 0


def test_large_requests_are_counted_like_small_ones() -> None:
    rows = np.resize(BUILT.rows, (SMALL_REQUEST_BYTES // 16 + 1, 4)).astype(np.float32)
    assert rows.nbytes > SMALL_REQUEST_BYTES
    outboxes = [Outbox(None), Outbox(None)]
    for outbox, parts in zip(outboxes, ([rows], np.array_split(rows, 9)), strict=True):
        service = make_service(outbox=outbox)
        activate(service, BUILT)
        for part in parts:
            service.predict("main", part)
        service.close()
    (large,), (small,) = (windows_of(outbox) for outbox in outboxes)
    layout = CounterLayout.of(reference_of(BUILT))
    a, b = counters_of(large), counters_of(small)
    assert (a[layout.latency].sum(), b[layout.latency].sum()) == (1, 9)
    a[layout.latency] = b[layout.latency] = 0
    assert a.tolist() == b.tolist()
    assert large.rows == small.rows == len(rows)


def test_a_reused_input_array_does_not_change_what_was_counted() -> None:
    outboxes = [Outbox(None), Outbox(None)]
    for outbox, is_reused in zip(outboxes, (True, False), strict=True):
        service = make_service(outbox=outbox)
        activate(service, BUILT)
        buffer = np.empty((1, 4), np.float32)
        for row in BUILT.rows[:50]:
            buffer[0] = row
            service.predict("main", buffer if is_reused else buffer.copy())
        service.close()
    (a,), (b,) = (windows_of(outbox) for outbox in outboxes)
    layout = CounterLayout.of(reference_of(BUILT))
    upto = layout.output.stop
    assert counters_of(a)[:upto].tolist() == counters_of(b)[:upto].tolist()


def test_nothing_answered_makes_no_window() -> None:
    clock, outbox = FakeClock(), Outbox(None)
    service = make_service(clock=clock, outbox=outbox)
    activate(service, BUILT)
    for _ in range(3):
        clock.advance(120)
        service.close_due()
    service.close()
    assert windows_of(outbox) == []


def test_each_slot_has_a_stream_that_outlives_its_packages() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    for slot in ("left", "right", "left"):
        activate(service, BUILT, slot=slot)
        service.predict(slot, BUILT.rows[:1])
    service.close()
    numbers = sorted((w.stream, w.sequence) for w in windows_of(outbox))
    assert numbers == [(0, 0), (0, 1), (1, 0)]


def test_a_clock_set_back_does_not_turn_a_window_round() -> None:
    clock, outbox = FakeClock(), Outbox(None)
    service = make_service(clock=clock, outbox=outbox)
    activate(service, BUILT)
    service.predict("main", BUILT.rows[:1])
    clock._now = clock._now.replace(year=1999)
    service.close()
    (window,) = windows_of(outbox)
    assert window.t0_ms == window.t1_ms


def test_windows_wait_bounded_while_the_disk_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox, windows=WindowLimits(window_rows_max=1))
    activate(service, BUILT)

    def refuse(*_: object) -> None:
        raise OutboxError("outbox in memory: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "append", refuse)
        for _ in range(2):
            for _ in range(WINDOWS_WAITING_MAX // 2 + 2):
                service.predict("main", BUILT.rows[:1])
            service.close_due()
    assert caplog.text.count("disk full") == 1
    service.close_due()
    counts = outbox.counts()
    assert (counts["waiting"], counts["dropped"], counts["dropped_rows"]) == (
        WINDOWS_WAITING_MAX,
        4,
        4,
    )
    assert windows_of(outbox)[0].sequence == 4


# Probation ----------------------------------------------------------------------------------------


def test_statistics_count_from_activation_and_from_a_reset() -> None:
    service = make_service()
    activate(service, BUILT)
    for n in range(1, 4):
        service.predict("main", BUILT.rows[:n])
    stats = service.probation_stats("main")
    assert (stats.requests, stats.rows, stats.errors, stats.non_finite_rows) == (3, 6, 0, 0)
    assert stats.latency_ms_p95 is not None
    assert stats.latency_ms_p95 > 0
    service.reset_stats("main")
    assert service.probation_stats("main").requests == 0
    assert service.probation_stats("main").latency_ms_p95 is None
    service.predict("main", BUILT.rows[:1])
    activate(service, OTHER)
    assert service.probation_stats("main").requests == 0
    assert service.probation_stats("empty").requests == 0


def test_the_mix_of_answers_is_compared_with_the_references() -> None:
    service = make_service()
    activate(service, BUILT)
    assert service.probation_stats("main").output_shift is None
    service.predict("main", BUILT.rows)
    assert service.probation_stats("main").output_shift == pytest.approx(0)
    service.reset_stats("main")
    labels = service.predict("main", BUILT.rows).outputs["label"]
    service.reset_stats("main")
    service.predict("main", BUILT.rows[labels == 0])
    share = float(np.mean(labels == 0))
    assert service.probation_stats("main").output_shift == pytest.approx(1 - share)


def test_answers_that_are_not_finite_are_counted() -> None:
    service = make_service()
    activate(service, BUILT)
    rows = BUILT.rows[:3].copy()
    rows[1, 2] = np.nan
    service.predict("main", rows)
    assert service.probation_stats("main").non_finite_rows == 1


def test_a_failing_runtime_is_an_error_of_the_model_and_counted() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    activate(service, BUILT)
    served = service.find("main")

    def fail(_names: object, inputs: dict[str, np.ndarray], _options: object) -> list[np.ndarray]:
        raise RuntimeError(f"kernel, {inputs['features'].size} numbers")

    service.predict("main", BUILT.rows[:1])
    served._session_run = fail
    with pytest.raises(InferenceError, match=r"plant/3/camera\.tar failed on 2 rows.*kernel"):
        service.predict("main", BUILT.rows[:2])
    stats = service.probation_stats("main")
    assert (stats.requests, stats.rows, stats.errors) == (2, 1, 1)
    service.close()
    (window,) = windows_of(outbox)
    layout = CounterLayout.of(reference_of(BUILT))
    assert counters_of(window)[layout.errors] == 1


def test_asking_for_statistics_does_not_change_the_window() -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    activate(service, BUILT)
    for n in range(40):
        service.predict("main", BUILT.rows[n : n + 2])
        service.probation_stats("main")
    service.close()
    (window,) = windows_of(outbox)
    assert window.rows == 80
    assert counters_of(window)[CounterLayout.of(reference_of(BUILT)).output].sum() == 80


def test_a_reference_is_what_the_support_says() -> None:
    outputs = make_outputs(BUILT)
    assert build_reference(BUILT.schema, BUILT.rows, outputs) == reference_of(BUILT)


def make_outputs(built: BuiltPackage) -> dict[str, np.ndarray]:
    service: InferenceService = make_service()
    activate(service, built)
    return service.predict("main", built.rows).outputs
