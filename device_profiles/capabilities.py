"""What a device found itself to be, read from its report. Pure.

Invariant: what has the wrong type or is too long counts as not said; nothing here raises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_profiles.calibration import Calibration

PROVIDERS_MAX = 64
FLAGS_MAX = 64
TEXT_CHARS_MAX = 80
FAULT_CHARS_MAX = 512

DOT_PRODUCT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Any of them adds products of bytes without losing bits: int8 weights may use all 8."""
FP16_FLAGS = frozenset({"avx512_fp16", "asimdhp"})
"""Any of them computes in float16; without, onnxruntime computes float16 as float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCapabilities:
    """What a device found itself to be; None or empty where it did not say.

    Attributes:
        arch: ``x86_64`` or ``aarch64``, as ``platform.machine()`` says.
        libc: For example ``glibc 2.36``.
        python: For example ``3.11.7``.
        onnxruntime: For example ``1.31.1``.
        ir_max: Newest ONNX file format that loaded.
        opset_max: Newest operator set of ``ai.onnx`` that loaded.
        opset_ml_max: Newest operator set of ``ai.onnx.ml`` that loaded.
        ram_bytes: Memory of the device (of its control group when smaller).
        disk_free_bytes: Free room where packages are kept.
        cores: Processor cores the agent may use.
        providers: Execution providers of its onnxruntime.
        cpu_flags: Processor features that change which kernels run.
        runtime_fault: Why onnxruntime does not come up; empty when it does.
        calibration: Its times on the reference graphs; None when never measured.
    """

    arch: str | None = None
    libc: str | None = None
    python: str | None = None
    onnxruntime: str | None = None
    ir_max: int | None = None
    opset_max: int | None = None
    opset_ml_max: int | None = None
    ram_bytes: int | None = None
    disk_free_bytes: int | None = None
    cores: int | None = None
    providers: tuple[str, ...] = ()
    cpu_flags: frozenset[str] = frozenset()
    runtime_fault: str = ""
    calibration: Calibration | None = None

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> "DeviceCapabilities":
        """Read the ``capabilities`` of a device's report; wrong types count as not said.

        >>> DeviceCapabilities.from_report({"cores": 4, "ir_max": "new"}).ir_max is None
        True
        """
        return cls(
            arch=_text(report.get("arch")),
            libc=_text(report.get("libc")),
            python=_text(report.get("python")),
            onnxruntime=_text(report.get("onnxruntime")),
            ir_max=_count(report.get("ir_max")),
            opset_max=_count(report.get("opset_max")),
            opset_ml_max=_count(report.get("opset_ml_max")),
            ram_bytes=_count(report.get("ram_bytes")),
            disk_free_bytes=_count(report.get("disk_free_bytes")),
            cores=_count(report.get("cores")),
            providers=_texts(report.get("providers"), PROVIDERS_MAX),
            cpu_flags=frozenset(_texts(report.get("cpu_flags"), FLAGS_MAX)),
            runtime_fault=(_text(report.get("runtime_fault"), FAULT_CHARS_MAX) or ""),
            calibration=Calibration.from_report(report.get("calibration")),
        )

    @property
    def has_dot_products(self) -> bool | None:
        """Whether int8 weights may use all 8 bits here; None when the device did not say."""
        return bool(self.cpu_flags & DOT_PRODUCT_FLAGS) if self.cpu_flags else None

    @property
    def has_fp16(self) -> bool | None:
        """Whether float16 is computed as such here; None when the device did not say."""
        return bool(self.cpu_flags & FP16_FLAGS) if self.cpu_flags else None


def _text(value: Any, chars_max: int = TEXT_CHARS_MAX) -> str | None:
    return value[:chars_max] if isinstance(value, str) else None


def _texts(value: Any, items_max: int) -> tuple[str, ...]:
    named = value[:items_max] if isinstance(value, list) else []
    return tuple(item[:TEXT_CHARS_MAX] for item in named if isinstance(item, str))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
