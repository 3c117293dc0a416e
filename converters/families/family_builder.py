"""Build the packages of one family for one profile, each checked like the first.

The first members climb the whole ladder. Where they ship fp32, the others are not measured at
length again: graphs of one architecture cost the same. Each is loaded, compared with its source on
all held-out rows, timed briefly and judged by the same limits. One that was filled in and breaks a
limit, or is less faithful than the first members were, is converted anew and climbs the whole
ladder: another way to convert it may be exact. Where the first ship another rung, all of them do.
"""

from dataclasses import dataclass, replace

from converters.build import build_loaded, build_package
from converters.errors import NoRungFitsError
from converters.families.member_converter import FilledSource, MemberConverter, MemberGraph, Way
from converters.request import BuildRequest, BuiltPackage, Effort, MeasurementPlan
from device_profiles.profile import Precision

LEADS = 2
"""Members that climb the whole ladder before others may do without."""
BRIEF = MeasurementPlan(rounds=3, round_s=0.0005, runs_max=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltMember:
    """A member's package.

    Attributes:
        package: Checked like any other.
        way: How its graph was made.
        reason: Why it was converted in full; empty when its numbers were filled in.
    """

    package: BuiltPackage
    way: Way
    reason: str = ""


class FamilyBuilder:
    """Builds one family for one profile in one process."""

    def __init__(self) -> None:
        self._converter = MemberConverter()
        self._leads = 0
        self._ships_fp32 = True

    def build(self, request: BuildRequest) -> BuiltMember:
        """Build one member.

        Raises:
            ConversionError: As ``build_package``.
        """
        graph = self._converter.convert(
            request.estimator, request.schema, request.profile, request.holdout
        )
        is_lead = self._leads < LEADS
        try:
            package = self._pack(request, graph, is_lead=is_lead)
        except NoRungFitsError:
            if is_lead and graph.way is Way.FULL:
                raise
            return _build_anew(request, graph.reason or "filled in it broke a limit")
        if graph.way is not Way.FULL and not _is_faithful(package, graph):
            return _build_anew(request, "filled in it was less exact than the first ones")
        if is_lead:
            self._leads += 1
            self._ships_fp32 &= package.precision is Precision.FP32
        return BuiltMember(package=package, way=graph.way, reason=graph.reason)

    def _pack(self, request: BuildRequest, graph: MemberGraph, *, is_lead: bool) -> BuiltPackage:
        asked = _mark(request, graph.way)
        if not is_lead and self._ships_fp32:
            asked = replace(asked, effort=Effort.BRIEF, plan=BRIEF)
        return build_loaded(asked, FilledSource(graph))


def _build_anew(request: BuildRequest, reason: str) -> BuiltMember:
    """Convert in full and climb the whole ladder; nothing of the template is in the package."""
    package = build_package(_mark(request, Way.FULL))
    return BuiltMember(package=package, way=Way.FULL, reason=reason)


def _mark(request: BuildRequest, way: Way) -> BuildRequest:
    return replace(request, evidence_context={**request.evidence_context, "graph": str(way)})


def _is_faithful(package: BuiltPackage, graph: MemberGraph) -> bool:
    """Tell whether a filled graph is as exact as the conversions it is filled into.

    Another precision than fp32 is as exact as the limits ask, which it has kept.
    """
    tries = graph.conversion.tries
    if package.precision is not Precision.FP32 or not tries or not tries[-1].is_exact:
        return True
    parity = package.evidence["parity"]
    return bool(parity["flips"] == 0 and parity["rows_off"] == 0)
