"""Build the packages of one family for one profile, each checked like the first.

The first members climb the whole ladder. Where they ship fp32, the others are not measured at
length again: graphs of one architecture cost the same. Each is loaded, compared with its source on
all held-out rows, timed briefly and judged by the same limits; one that breaks a limit climbs the
whole ladder. Where the first ship another rung, all of them do.
"""

from dataclasses import dataclass, replace

from converters.build import build_loaded, build_package
from converters.errors import NoRungFitsError
from converters.families.member_converter import FilledSource, MemberConverter, Way
from converters.request import BuildRequest, BuiltPackage, Effort, MeasurementPlan
from device_profiles.profile import Precision

LEADS = 2
"""Members that climb the whole ladder before others may do without."""
BRIEF = MeasurementPlan(rounds=3, round_s=0.0005, runs_max=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltMember:
    """A member's package."""

    package: BuiltPackage
    way: Way


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
        context = {**request.evidence_context, "graph": str(graph.way)}
        marked = replace(request, evidence_context=context)
        source = FilledSource(graph)
        if self._leads >= LEADS and self._ships_fp32:
            brief = replace(marked, effort=Effort.BRIEF, plan=BRIEF)
            try:
                return BuiltMember(package=build_loaded(brief, source), way=graph.way)
            except NoRungFitsError:
                whole = build_package(request)  # converted anew: nothing of the template is in it
                return BuiltMember(package=whole, way=Way.FULL)
        package = build_loaded(marked, source)
        self._leads += 1
        self._ships_fp32 &= package.precision is Precision.FP32
        return BuiltMember(package=package, way=graph.way)
