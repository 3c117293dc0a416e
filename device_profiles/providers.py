"""Execution providers: which kinds exist, and what options a profile may give them. Pure.

Options are checked for size and shape only; what they mean is the runtime's matter, and it refuses
those it does not know when the session is made.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

CPU = "CPUExecutionProvider"
KNOWN = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "QNNExecutionProvider",
    "XnnpackExecutionProvider",
    CPU,
)
"""Those a profile may list; all but the CPU's need a runtime built with them."""
PROVIDERS_MAX = len(KNOWN)
OPTIONS_MAX = 32
OPTION_CHARS_MAX = 512
OPTIONS_CHARS_MAX = 4_096
"""Names and values of all options together; they travel as one argument to child processes."""
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,62}")

ProviderOptions = Mapping[str, Mapping[str, str]]
"""Options by provider; values are text, as onnxruntime takes them."""


def read_options(value: Any) -> ProviderOptions:
    """Read the table of options: numbers and booleans become the text onnxruntime takes.

    >>> dict(read_options({"CUDAExecutionProvider": {"device_id": 0}})["CUDAExecutionProvider"])
    {'device_id': '0'}

    Raises:
        ValueError: Not a table of tables of plain values; the message begins with the key.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f": must be a table, got {value!r:.80}")  # noqa: TRY004 - one kind here
    found = {}
    for provider, options in value.items():
        if not isinstance(options, Mapping):
            raise ValueError(f".{provider}: must be a table, got {options!r:.80}")  # noqa: TRY004
        if len(options) > OPTIONS_MAX:
            raise ValueError(f".{provider}: {len(options)} options, the limit is {OPTIONS_MAX}")
        for name, option in options.items():
            if not isinstance(name, str) or not _OPTION.fullmatch(name):
                raise ValueError(f".{provider}.{str(name)[:63]}: an option is letters, digits, _ .")
            if not isinstance(option, str | int | float) or len(str(option)) > OPTION_CHARS_MAX:
                raise ValueError(
                    f".{provider}.{name}: must be text, a number or true or false of at most"
                    f" {OPTION_CHARS_MAX} characters"
                )
        found[provider] = MappingProxyType(
            {name: _as_text(option) for name, option in options.items()}
        )
    size = sum(len(n) + len(v) for options in found.values() for n, v in options.items())
    if size > OPTIONS_CHARS_MAX:
        raise ValueError(f": {size} characters of options, the limit is {OPTIONS_CHARS_MAX}")
    return MappingProxyType(found)


def find_wrong_providers(providers: Sequence[str]) -> str:
    """Say what is wrong with a list of providers; empty when nothing is."""
    unknown = [name for name in providers if name not in KNOWN]
    if not providers or unknown:
        return f"needs names among {', '.join(KNOWN)}, got {', '.join(providers)[:200] or 'none'}"
    if len(set(providers)) < len(providers):
        return "names a provider twice"
    if CPU in providers and providers[-1] != CPU:
        return f"{CPU} runs everything, so what follows it never would: list it last"
    return ""


def _as_text(option: str | float) -> str:
    return str(option).lower() if isinstance(option, bool) else str(option)
