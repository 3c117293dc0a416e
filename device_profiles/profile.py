"""What a kind of device is and what it may be given to run. Pure values, no files.

Every bound is checked when the value is made, so a ``DeviceProfile`` in hand is a sound one.
Left out: finding and reading the files (``catalog``), judging fitness (``compatibility``).
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from device_profiles.errors import ProfileFormatError
from device_profiles.providers import ProviderOptions, find_wrong_providers, read_options
from device_profiles.versions import parse_range, parse_release

if TYPE_CHECKING:
    from device_profiles.calibration import Calibration

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
DESCRIPTION_CHARS_MAX = 512
VERSION_CHARS_MAX = 128
LABELS_MAX = 64
LABEL_CHARS_MAX = 128
BYTES_MAX = 2**50
ROWS_MAX = 2**40
SECONDS_MAX = 86_400
CORES_MAX = 4_096
LATENCY_MS_MAX = 3_600_000


class Arch(StrEnum):
    """Machine architectures that have a 64-bit onnxruntime wheel."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Precision(StrEnum):
    """How the numbers of a graph are stored and computed."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8_DYNAMIC = "int8_dynamic"
    INT8_STATIC = "int8_static"


class Serving(StrEnum):
    """Where an agent lets models answer."""

    WORKER = "worker"
    """In a process of its own: what a model does to it does not end the agent."""
    IN_PROCESS = "in_process"
    """In the agent's process: less memory, and a crash ends the agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryLimits:
    """What a device may record and send.

    Attributes:
        window_s: Longest telemetry window, 1 s to a day.
        window_rows_max: Rows after which a window closes early.
        outbox_bytes_max: Room for windows that wait for an acknowledgement.
        uplink_bytes_per_day_max: Telemetry bytes a day, all slots together.
        sample_bytes_per_day_max: Of these, bytes of sampled raw rows, for devices whose own
            settings let any out; 0 allows none.
    """

    window_s: int = 60
    window_rows_max: int = 100_000
    outbox_bytes_max: int = 16_777_216
    uplink_bytes_per_day_max: int = 5_242_880
    sample_bytes_per_day_max: int = 1_048_576

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_int("telemetry", "window_s", self.window_s, 1, SECONDS_MAX)
        _check_int("telemetry", "window_rows_max", self.window_rows_max, 1, ROWS_MAX)
        _check_int("telemetry", "outbox_bytes_max", self.outbox_bytes_max, 65_536, BYTES_MAX)
        _check_int(
            "telemetry", "uplink_bytes_per_day_max", self.uplink_bytes_per_day_max, 1, BYTES_MAX
        )
        _check_int(
            "telemetry", "sample_bytes_per_day_max", self.sample_bytes_per_day_max, 0, BYTES_MAX
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """One kind of device.

    Attributes:
        id: ``[a-z0-9][a-z0-9-]{0,62}``; the name of its file.
        description: One line for people.
        arch: Architectures of this kind; a package must run on each.
        libc_min: Oldest glibc, for example ``2.28``.
        python: Range of Python releases of the agent.
        ram_bytes: Memory of the smallest device of this kind.
        disk_bytes: Disk of the smallest device of this kind.
        cores: Processor cores of the smallest device of this kind.
        onnxruntime: Range of onnxruntime releases.
        ir_max: Newest ONNX file format (IR) that every release of the range loads.
        opset_max: Newest operator set of domain ``ai.onnx`` likewise.
        opset_ml_max: Newest operator set of domain ``ai.onnx.ml`` likewise.
        providers: Execution providers in order of preference.
        precisions: Precisions this kind may be given; always has fp32 as the one to compare with.
        package_bytes_max: Largest package.
        latency_ms_p95_max: Slowest 95th percentile of one prediction of one row.
        rss_bytes_max: Most resident memory of the process that runs one model.
        intra_op_threads: Threads of one prediction.
        allow_spinning: Whether idle threads may burn processor time for latency.
        arena: Whether onnxruntime may keep a memory arena.
        int8_full_range: Whether every processor of this kind has VNNI or Arm dot products, so that
            8-bit weights answer the same on all of them; int8 graphs get 7-bit weights otherwise.
        serving: Whether models answer in a process of their own.
        require_provider: Whether the first of ``providers`` must be the one that serves; else the
            next that works takes its place, and the device says so.
        provider_options: Options by provider, as onnxruntime names them.
        calibration: Times of the reference graphs on such a device; None when nobody measured.
        telemetry: What may be recorded and sent.
        labels: Given to every device of this kind.
    """

    id: str
    description: str
    arch: tuple[Arch, ...]
    libc_min: str
    python: str
    ram_bytes: int
    disk_bytes: int
    cores: int
    onnxruntime: str
    ir_max: int
    opset_max: int
    opset_ml_max: int
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    package_bytes_max: int
    latency_ms_p95_max: float
    rss_bytes_max: int
    intra_op_threads: int = 1
    allow_spinning: bool = False
    arena: bool = True
    int8_full_range: bool = False
    serving: Serving = Serving.WORKER
    require_provider: bool = False
    provider_options: ProviderOptions = field(default_factory=dict)
    calibration: "Calibration | None" = None
    telemetry: TelemetryLimits = field(default_factory=TelemetryLimits)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value; raises ProfileFormatError naming the key."""
        if not _is_text(self.id, 63) or not _ID.fullmatch(self.id):
            raise ProfileFormatError(str(self.id)[:80], "id", "must match [a-z0-9][a-z0-9-]{0,62}")
        self._check_texts()
        self._check_numbers()
        self._check_choices()
        if self.rss_bytes_max > self.ram_bytes:
            raise self._wrong(
                "rss_bytes_max", f"{self.rss_bytes_max} is more than ram_bytes {self.ram_bytes}"
            )
        if self.package_bytes_max > self.disk_bytes:
            raise self._wrong(
                "package_bytes_max",
                f"{self.package_bytes_max} is more than disk_bytes {self.disk_bytes}",
            )
        if self.intra_op_threads > self.cores:
            raise self._wrong(
                "intra_op_threads", f"{self.intra_op_threads} is more than cores {self.cores}"
            )

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, source: str) -> "DeviceProfile":
        """Build from a decoded TOML table.

        Args:
            table: Keys as the attributes; ``telemetry`` and ``labels`` are tables.
            source: Named in errors.

        Raises:
            ProfileFormatError: A key is unknown, missing or has a wrong value.
        """
        values = dict(table)
        _refuse_unknown(cls, values, source, prefix="")
        required = [f.name for f in fields(cls) if f.name not in _OPTIONAL]
        missing = [name for name in required if name not in values]
        if missing:
            raise ProfileFormatError(source, "", f"lacks {', '.join(missing)}")
        for name, kind in (("arch", Arch), ("precisions", Precision)):
            if name in values:
                values[name] = _members(kind, values[name], source, name)
        if "providers" in values:
            values["providers"] = _texts(values["providers"], source, "providers")
        if "telemetry" in values:
            limits = _table(values["telemetry"], source, "telemetry")
            _refuse_unknown(TelemetryLimits, limits, source, prefix="telemetry.")
            values["telemetry"] = TelemetryLimits(**limits)
        values |= _read_further(values, source)
        if "serving" in values:
            (values["serving"],) = _members(Serving, [values["serving"]], source, "serving")
        values["labels"] = MappingProxyType(_table(values.get("labels", {}), source, "labels"))
        return cls(**values)

    def to_table(self) -> dict[str, Any]:
        """Give what ``from_table`` reads: plain values, for TOML or JSON."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("arch", "precisions"):
            table[name] = [str(member) for member in table[name]]
        table["providers"] = list(self.providers)
        table["serving"] = str(self.serving)
        table["provider_options"] = {n: dict(o) for n, o in self.provider_options.items()}
        del table["calibration"]
        if self.calibration is not None:
            table["calibration"] = self.calibration.to_json()
        table["telemetry"] = asdict(self.telemetry)
        table["labels"] = dict(self.labels)
        return table

    def _check_texts(self) -> None:
        if not _is_text(self.description, DESCRIPTION_CHARS_MAX):
            raise self._wrong("description", f"at most {DESCRIPTION_CHARS_MAX} characters of text")
        for name, read in (
            ("libc_min", parse_release),
            ("python", parse_range),
            ("onnxruntime", parse_range),
        ):
            value = getattr(self, name)
            if not _is_text(value, VERSION_CHARS_MAX):
                raise self._wrong(name, f"must be a version text, got {str(value)[:80]!r}")
            try:
                read(value)
            except ValueError as error:
                raise self._wrong(name, str(error)) from error

    def _check_numbers(self) -> None:
        for name, low, high in (
            ("ram_bytes", 1_048_576, BYTES_MAX),
            ("disk_bytes", 1_048_576, BYTES_MAX),
            ("cores", 1, CORES_MAX),
            ("ir_max", 3, 64),
            ("opset_max", 9, 128),
            ("opset_ml_max", 1, 64),
            ("package_bytes_max", 1_024, BYTES_MAX),
            ("rss_bytes_max", 1_048_576, BYTES_MAX),
            ("intra_op_threads", 1, CORES_MAX),
        ):
            _check_int(f"profile {self.id}", name, getattr(self, name), low, high)
        _check_latency(self.id, self.latency_ms_p95_max)

    def _check_choices(self) -> None:
        if not self.arch:
            raise self._wrong("arch", f"needs at least one of {', '.join(Arch)}")
        if Precision.FP32 not in self.precisions:
            raise self._wrong("precisions", "must hold fp32, the one the others are compared with")
        if wrong := find_wrong_providers(self.providers):
            raise self._wrong("providers", wrong)
        if idle := sorted(set(self.provider_options) - set(self.providers)):
            raise self._wrong(f"provider_options.{idle[0]}", "is not among providers")
        if not isinstance(self.serving, Serving):
            raise self._wrong("serving", f"must be one of {', '.join(Serving)}")
        for name in ("allow_spinning", "arena", "int8_full_range", "require_provider"):
            if not isinstance(getattr(self, name), bool):
                raise self._wrong(name, f"must be true or false, got {getattr(self, name)!r}")
        if len(self.labels) > LABELS_MAX:
            raise self._wrong("labels", f"{len(self.labels)} labels, the limit is {LABELS_MAX}")
        for key, value in self.labels.items():
            if not _is_text(key, 63) or not _NAME.fullmatch(key):
                raise self._wrong(f"labels.{key}", "a label name is letters, digits, _ . -")
            if not _is_text(value, LABEL_CHARS_MAX):
                raise self._wrong(
                    f"labels.{key}", f"must be text of at most {LABEL_CHARS_MAX} characters"
                )

    def _wrong(self, name: str, problem: str) -> ProfileFormatError:
        return ProfileFormatError(f"profile {self.id}", name, problem)


_OPTIONAL = frozenset(
    {
        "providers",
        "precisions",
        "intra_op_threads",
        "allow_spinning",
        "arena",
        "int8_full_range",
        "serving",
        "require_provider",
        "provider_options",
        "calibration",
        "telemetry",
        "labels",
    }
)


def _read_further(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the tables whose values are not plain."""
    found: dict[str, Any] = {}
    if "provider_options" in values:
        try:
            found["provider_options"] = read_options(values["provider_options"])
        except ValueError as error:
            key, _, problem = f"provider_options{error}".partition(": ")
            raise ProfileFormatError(source, key, problem) from error
    if "calibration" in values:
        from device_profiles.calibration import Calibration  # few profiles have one

        found["calibration"] = Calibration.from_report(values["calibration"])
        if found["calibration"] is None:
            raise ProfileFormatError(
                source, "calibration", "must be what `edge-agent doctor --calibrate --json` says"
            )
    return found


def _is_text(value: Any, chars_max: int) -> bool:
    return isinstance(value, str) and len(value) <= chars_max


def _check_latency(source: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= LATENCY_MS_MAX:
        raise ProfileFormatError(
            f"profile {source}",
            "latency_ms_p95_max",
            f"must be a number above 0 to {LATENCY_MS_MAX}, got {value!r}",
        )


def _check_int(source: str, name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProfileFormatError(
            source, name, f"must be an integer from {low} to {high}, got {value!r}"
        )


def _refuse_unknown(kind: type, values: Mapping[str, Any], source: str, *, prefix: str) -> None:
    known = {f.name for f in fields(kind)}
    for name in values:
        if name not in known:
            raise ProfileFormatError(
                source, f"{prefix}{name}", f"unknown key; known: {', '.join(sorted(known))}"
            )


def _table(value: Any, source: str, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ProfileFormatError(source, name, f"must be a table, got {value!r}")
    return dict(value)


def _texts(value: Any, source: str, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ProfileFormatError(source, name, f"must be a list of texts, got {value!r}")
    return tuple(value)


def _members(kind: type[StrEnum], value: Any, source: str, name: str) -> tuple[StrEnum, ...]:
    try:
        return tuple(kind(text) for text in _texts(value, source, name))
    except ValueError as error:
        known = ", ".join(kind)
        raise ProfileFormatError(source, name, f"{error}; known: {known}") from error
