"""The shell of the agent: takes an input, steps the pure core, commits, carries out effects.

The new state is committed before any effect of it (``commits.py``). A disk that refuses the commit
stops the step, not the agent: what runs keeps answering and the step is tried again.

No threads, no sleeping: the owner calls ``handle`` for each input and ``tick`` when time passed,
from one thread or one event loop, never from inside ``Jobs.submit``. Slow work goes through
``Jobs`` and comes back as an input. So one process runs a real agent, or a thousand simulated.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from edge_agent.agent_jobs import AgentJobs, CapabilitiesFound, SlotEvent
from edge_agent.authorities import AuthoritiesFollowed
from edge_agent.commits import Change, Commits
from edge_agent.contract.codes import Code
from edge_agent.contract.messages import SLOTS_MAX, SlotState
from edge_agent.contract.topics import AUTHORITIES_TOPIC, META_TOPIC, Channel, device_topic
from edge_agent.core.agent_state import AgentState
from edge_agent.core.changes import events_of, held_packages
from edge_agent.core.effects import Effect
from edge_agent.core.events import (
    Booted,
    LinkDown,
    LinkUp,
    Observed,
    ShadowSeen,
    Stopped,
    Ticked,
)
from edge_agent.download import PartOpened, PartSaved, Restoring
from edge_agent.downloads import Downloads
from edge_agent.effects_runner import EffectsRunner
from edge_agent.errors import Refusal
from edge_agent.ports import (
    AssignmentVerifier,
    BlobStore,
    CapabilityProbe,
    ChunkStore,
    Clock,
    Connected,
    Disconnected,
    InferenceService,
    Jitter,
    Jobs,
    Lane,
    Link,
    MessageArrived,
    SelfTester,
    ServingFound,
    StateStore,
    TelemetryUplink,
)
from edge_agent.renewal import IdentityRenewer, Renewal, RenewalFailed, Renewed, RequestMade
from edge_agent.reporter import Reporter
from edge_agent.restorer_port import PackageRestorer
from edge_agent.shadow_port import NoShadows, ShadowService
from edge_agent.trust_inbox import GRACE_S, Judged, TrustInbox

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPorts:
    """The world of one agent."""

    clock: Clock
    jitter: Jitter
    verifier: AssignmentVerifier
    state_store: StateStore
    blobs: BlobStore
    chunks: ChunkStore
    inference: InferenceService
    self_tester: SelfTester
    telemetry: TelemetryUplink
    link: Link
    jobs: Jobs
    probe: CapabilityProbe
    shadows: ShadowService = field(default_factory=NoShadows)
    identity: IdentityRenewer | None = None
    """None: the certificate is not renewed by this agent."""
    read_resources: Callable[[], Mapping[str, float]] = dict
    """Gives what agent and device use, for the report; must be cheap."""
    restorer: PackageRestorer | None = None
    """None: every package is fetched as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What one agent is told at its start.

    Attributes:
        device_id: Of its certificate.
        boot: Random id of this start, 63 bits.
        latency_ms_p95_max: Of its profile, for probations.
        grace_s: How long a refusal that a missing half would cure stays unreported.
        tick_s: Longest time between two ticks.
        serving_place: Where models answer, for the report: ``worker`` or ``in_process``.
    """

    device_id: str
    boot: int
    latency_ms_p95_max: float
    grace_s: float = GRACE_S
    tick_s: float = 1.0
    serving_place: str = ""


class Agent:
    """One device's agent."""

    def __init__(self, options: AgentOptions, ports: AgentPorts, state: AgentState) -> None:
        self._options, self._ports = options, ports
        self._commits = Commits(
            state,
            store=ports.state_store,
            clock=ports.clock,
            carry_out=self._carry_out,
            spread=ports.link.spread_reconnects,
        )
        self._pump_at = 0.0
        self._overflow: Refusal | None = None
        self._inbox = TrustInbox(ports.verifier, grace_s=options.grace_s)
        self._watched: frozenset[str] = frozenset()
        self._make_job = AgentJobs(
            clock=ports.clock,
            jitter=ports.jitter,
            blobs=ports.blobs,
            chunks=ports.chunks,
            inference=ports.inference,
            shadows=ports.shadows,
            self_tester=ports.self_tester,
            probe=ports.probe,
        )
        self._downloads = Downloads(
            clock=ports.clock,
            jitter=ports.jitter,
            blobs=ports.blobs,
            chunks=ports.chunks,
            jobs=ports.jobs,
            link=ports.link,
            emit=self._commits.post,
            restoring=None
            if ports.restorer is None
            else Restoring(restorer=ports.restorer, find_held=self._find_held),
        )
        self._effects = EffectsRunner(
            make_job=self._make_job,
            jobs=ports.jobs,
            downloads=self._downloads,
            inference=ports.inference,
            slots=lambda: self.state.slots,
        )
        self._reporter = Reporter(
            boot=options.boot,
            clock=ports.clock,
            jitter=ports.jitter,
            count_windows=ports.telemetry.counts,
            read_resources=ports.read_resources,
            serving_place=options.serving_place,
        )
        self._renewal = Renewal(
            ports.identity,
            clock=ports.clock,
            jitter=ports.jitter,
            jobs=ports.jobs,
            link=ports.link,
            find_floor=lambda: max(
                self.state.accepted.time_floor_at, self.state.accepted.director_floor_at
            ),
            grace_s=options.grace_s,
        )
        self._on_topic = self._subscribe()
        self.ignored_messages = 0

    def start(self) -> None:
        """Take up what the last life left; to be called once, first."""
        now = self._ports.clock.monotonic()
        self._ports.link.spread_reconnects(self.state.spread_s)
        self._ports.jobs.submit(Lane.TEST, self._make_job.find_capabilities())
        self._boot(now)
        self._settle()
        if self.state.slots:
            # A power cut may have brought back names that were removed, or come before that.
            self._ports.jobs.submit(Lane.DISK, self._make_job.collect(self._effects.find_needed))

    def handle(self, item: object) -> None:
        """Take one input: of the link, or the result of a job."""
        match item:
            case MessageArrived(topic=topic, payload=payload):
                self._on_message(topic, payload)
            case SlotEvent(slot=slot, event=event):
                self._commits.post(slot, event)
            case PartOpened() | PartSaved():
                self._downloads.handle(item)
            case Judged():
                self._on_judged(item)
            case Connected():
                self._on_connected()
            case Disconnected():
                self._commits.post_to_all(LinkDown())
                self._downloads.on_link(is_up=False)
            case RequestMade() | Renewed() | RenewalFailed() | AuthoritiesFollowed():
                self._renewal.handle(item)
            case CapabilitiesFound(capabilities=capabilities):
                self._reporter.capabilities = capabilities
            case ServingFound():
                self._reporter.serving = asdict(item)
            case None:
                pass
            case _:
                raise TypeError(f"no input of the agent: {type(item).__name__}")
        self._settle()

    def tick(self) -> float:
        """Do what is due by now; return seconds until the next tick, at most ``tick_s``."""
        now = self._ports.clock.monotonic()
        if self._commits.is_empty:
            self._tick_slots(now)
        self._downloads.tick()
        self._renewal.tick()
        if now >= self._pump_at:
            self._pump_at = now + self._options.tick_s
            self._ports.telemetry.pump()
        self._settle()
        return self._next_wait_s()

    def stop(self) -> None:
        """Commit that this life ends in good order."""
        self._commits.post_to_all(Stopped())
        self._settle()

    @property
    def refusal(self) -> Refusal | None:
        """Why the newest assignment, or the disk, stops updates now; None when nothing does."""
        inbox = self._inbox.refusal(now=self._ports.clock.monotonic())
        return self._commits.refusal or self._overflow or inbox

    @property
    def state(self) -> AgentState:
        """What the agent is committed to."""
        return self._commits.state

    def _boot(self, now: float) -> None:
        """Start every slot; one whose package is known to be withdrawn lets go of it first."""
        held = held_packages(self.state)
        verdict = self._inbox.judge_stored(self.state.accepted, held)
        standing = verdict.standing if verdict is not None else None
        events = events_of(self.state, standing, None, now)
        concerned = {slot for slot, _ in events}
        others = tuple((slot, Booted(now)) for slot in self.state.slots if slot not in concerned)
        if others:
            self._commits.add(Change(others))
        if events:
            boots = tuple((slot, Booted(now)) for slot in sorted(concerned))
            self._commits.add(Change((*events, *boots)))

    def _subscribe(self) -> Mapping[str, Callable[[bytes], None]]:
        device_id = self._options.device_id
        return {
            META_TOPIC: self._inbox.put_metadata,
            AUTHORITIES_TOPIC: self._renewal.authorities.put_bundle,
            device_topic(device_id, Channel.DESIRED): self._on_desired,
            device_topic(device_id, Channel.CHUNK): self._downloads.on_frame,
            device_topic(device_id, Channel.TELEMETRY_ACK): self._ports.telemetry.on_ack,
            device_topic(device_id, Channel.CERTIFICATE): self._renewal.on_answer,
        }

    def _on_message(self, topic: str, payload: bytes) -> None:
        take = self._on_topic.get(topic)
        if take is None and self._inbox.put_bin(topic, payload):
            return
        if take is None:
            self.ignored_messages += 1
            _LOG.warning("message on %s ignored: this agent does not know it", topic[:200])
            return
        take(payload)

    def _on_connected(self) -> None:
        self._commits.post_to_all(LinkUp(self._ports.clock.monotonic()))
        self._downloads.on_link(is_up=True)
        self._ports.telemetry.on_connected()
        self._pump_at = 0.0
        self._reporter.connected()

    def _on_desired(self, envelope: bytes) -> None:
        self._inbox.put_envelope(envelope)
        self._reporter.hear_assignment(envelope, spread_s=self.state.spread_s)

    def _on_judged(self, judged: Judged) -> None:
        now = self._ports.clock.monotonic()
        verdict = self._inbox.take(judged, now=now)
        self._watch_bins()
        standing, verified = verdict.standing, verdict.result
        self._overflow = None
        if isinstance(verified, Refusal):
            _LOG.warning("assignment refused: %s", verified)
            verified = None
        elif verified is not None:
            names = set(self.state.slots) | set(verified.targets)
            if len(names) > SLOTS_MAX:
                detail = f"{len(names)} slots, {SLOTS_MAX} are most"
                self._overflow, verified = Refusal(Code.WRONG_SLOT, detail), None
        if standing is not None:
            self._renewal.follow_listed(standing.authorities, spread_s=self.state.spread_s)
            events = events_of(self.state, standing, verified, now)
            self._commits.add(Change(events, verified, standing))

    def _watch_bins(self) -> None:
        if self._inbox.bin_topics != self._watched:
            self._watched = self._inbox.bin_topics
            self._ports.link.watch(self._watched)

    def _tick_slots(self, now: float) -> None:
        jitter = self._ports.jitter
        for name, slot in self.state.slots.items():
            if slot.next_at is not None and now >= slot.next_at:
                self._commits.post(name, Ticked(now, jitter()))
            if slot.phase is SlotState.PROBATION and slot.since_at is not None:
                stats = self._ports.inference.probation_stats(name)
                limit = self._options.latency_ms_p95_max
                self._commits.post(name, Observed(stats, limit, now))
            if slot.phase is SlotState.SHADOWING:
                self._see_shadow(name, now)

    def _see_shadow(self, slot: str, now: float) -> None:
        seen = self._ports.shadows.find(slot)
        if seen is not None:
            event = ShadowSeen(seen.attempt, seen.report, seen.code, seen.detail, now)
            self._commits.post(slot, event)

    def _settle(self) -> None:
        """Commit and carry out everything that waits; then judge and report what is news."""
        now = self._ports.clock.monotonic()
        self._commits.work_off()
        # Not while a judgement waits to be committed: the next one builds on what it changes.
        held = held_packages(self.state)
        judge = None
        if self._commits.is_empty:
            judge = self._inbox.next_job(self.state.accepted, held, now=now)
        if judge is not None:
            self._ports.jobs.submit(Lane.TRUST, judge)
        refusal = self.refusal
        self._reporter.certificate = self._renewal.report
        self._reporter.transfers = dict(self._downloads.notes)
        self._reporter.note(self.state, refusal)
        if self._ports.link.is_connected:
            report = self._reporter.take_due(self.state, refusal)
            if report is not None and not self._ports.link.publish(Channel.REPORTED, report, qos=1):
                self._reporter.hurry()

    def _find_held(self, slot: str) -> tuple[str, ...]:
        """Return the packages in a slot's banks, the confirmed first."""
        banks = self.state.slots[slot].banks
        held = (banks.confirmed_package, banks.a, banks.b)
        return tuple(dict.fromkeys(package.sha256 for package in held if package is not None))

    def _carry_out(self, slot: str, effect: Effect) -> None:
        self._effects.run(slot, effect)

    def _next_wait_s(self) -> float:
        now, soonest = self._ports.clock.monotonic(), self._options.tick_s
        instants = [slot.next_at for slot in self.state.slots.values()]
        instants += [self._downloads.next_at, self._pump_at, self._renewal.next_at]
        if self._ports.link.is_connected:
            instants.append(self._reporter.due_at)
        for instant in instants:
            if instant is not None:
                soonest = min(soonest, max(0.0, instant - now))
        return soonest
