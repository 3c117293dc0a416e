"""Choose what computes: the profile's execution providers in order, as far as the runtime has them.

A provider may be missing from the installed runtime, or be in it and not come up (no device, no
driver); then the next of the list takes its place, the CPU's at the end, and what was passed over
is told. Where the profile requires its first, a package that it does not serve is refused.

Invariant: nothing here prints; the runtime's own fallback, which does, is off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from device_profiles.providers import CPU, ProviderOptions, read_options
from edge_agent.contract.codes import Code
from edge_agent.errors import PackageError, words_of

if TYPE_CHECKING:
    import onnxruntime

    from device_profiles.profile import DeviceProfile

REASON_CHARS_MAX = 200
NOT_BUILT_IN = "the installed runtime is built without it"
NOT_COME_UP = "it did not come up: no device or no driver of its kind"
COMPUTES_NOTHING = "it has none of this graph's operators"
_RECORD = "session.record_ep_graph_assignment_info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderWish:
    """What a profile wants to compute with.

    Attributes:
        names: Execution providers, the most wanted first.
        options: By provider.
        is_required: Whether nothing but the first will do.
    """

    names: tuple[str, ...] = (CPU,)
    options: ProviderOptions = field(default_factory=dict)
    is_required: bool = False

    @classmethod
    def of(cls, profile: "DeviceProfile") -> "ProviderWish":
        """Take it from a profile."""
        return cls(
            names=profile.providers,
            options=profile.provider_options,
            is_required=profile.require_provider,
        )

    def to_json(self) -> dict[str, Any]:
        """Give what ``from_json`` reads, in another process of the same release."""
        options = {name: dict(values) for name, values in self.options.items()}
        return {"names": list(self.names), "options": options, "is_required": self.is_required}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ProviderWish":
        """Read what ``to_json`` gave."""
        return cls(
            names=tuple(value["names"]),
            options=read_options(value["options"]),
            is_required=bool(value["is_required"]),
        )


CPU_ONLY = ProviderWish()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which provider a session computes with, and why not with one that was wanted more."""

    provider: str
    passed_over: Mapping[str, str]


def make_session(
    model: bytes, options: "onnxruntime.SessionOptions", wish: ProviderWish
) -> "tuple[onnxruntime.InferenceSession, Served]":
    """Load a graph with the first wanted provider that comes up.

    Operators it does not have the CPU's computes within the same session. A provider that has none
    of the graph's is passed over, where the runtime tells (1.24 and later).

    Raises:
        PackageError: ``SELFTEST_LOAD``: the first is required and does not serve.
        Exception: Whatever the runtime raises when not even the CPU's loads the graph.
    """
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    passed = {name: NOT_BUILT_IN for name in wish.names if name not in offered}
    names = [name for name in wish.names if name in offered and name != CPU] + [CPU]
    if names != [CPU]:
        options.add_session_config_entry(_RECORD, "1")
    while True:
        try:
            session = onnxruntime.InferenceSession(
                model,
                options,
                providers=[(name, dict(wish.options.get(name, {}))) for name in names],
                enable_fallback=0,
            )
        except Exception as error:
            _check_required(wish, names[0], {**passed, names[0]: _short(error)})
            if len(names) == 1:
                raise
            passed[names.pop(0)] = _short(error)
            continue
        up = [name for name in names if name in session.get_providers()]
        passed |= dict.fromkeys([name for name in names if name not in up], NOT_COME_UP)
        computing = _find_computing(session) if names != [CPU] else None
        serving = [name for name in up if computing is None or name in computing] or [CPU]
        idle = up[: up.index(serving[0])] if serving[0] in up else up
        passed |= dict.fromkeys(idle, COMPUTES_NOTHING)
        _check_required(wish, serving[0], passed, is_serving=True)
        return session, Served(provider=serving[0], passed_over=passed)


def _check_required(
    wish: ProviderWish, name: str, passed: Mapping[str, str], *, is_serving: bool = False
) -> None:
    """Refuse when the required provider was tried or passed over; raises PackageError."""
    first = wish.names[0]
    if not wish.is_required or (is_serving and name == first):
        return
    if not is_serving and name == first == CPU:
        return  # the graph's own fault, told by what the runtime raised
    raise PackageError(
        Code.SELFTEST_LOAD,
        f"the profile requires {first}: {passed.get(first, NOT_COME_UP)}"[:400],
    )


def _find_computing(session: "onnxruntime.InferenceSession") -> set[str] | None:
    """Tell which providers were given operators; None where the runtime does not tell."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    return {part.ep_name for part in tell()} if tell is not None else None


def _short(error: Exception) -> str:
    return words_of(error)[:REASON_CHARS_MAX]
