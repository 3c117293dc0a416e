"""The gateway's work on identities: answers to renewals, and the end of sessions.

Renewals have an inbox of their own: issuing must not hold up reports.
"""

import logging
from collections.abc import Callable
from threading import Event

from edge_agent.contract.errors import ContractError
from edge_agent.contract.renewal import RenewRequest
from edge_agent.contract.topics import Channel, device_topic, parse_topic
from fleet_server.adapters.mqtt_gateway import Delivery, MqttLink
from fleet_server.ports.clock import Clock
from fleet_server.ports.telemetry import QuarantinedMessage
from fleet_server.services.end_sessions import SessionEnder
from fleet_server.services.ingest_windows import IngestWindows
from fleet_server.services.renew_certificate import RenewalDesk
from fleet_server.workers.gateway_loops import IDLE_S, Chore, Loop
from fleet_server.workers.inbox_loop import InboxBounds, InboxLoop

BOUNDS = InboxBounds(waiting_max=1_000, messages_max=50, bytes_max=1_048_576)
LIST_EVERY_S = 60.0
_LOG = logging.getLogger(__name__)


class RenewLoop(InboxLoop):
    """Requests for the next certificate in, certificates out."""

    def __init__(
        self,
        link: MqttLink,
        desk: RenewalDesk,
        ingest: IngestWindows,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__("renewals", Channel.RENEW, BOUNDS, link, ingest, clock, stop)
        self._desk = desk
        self.answered = 0

    def work(self, batch: list[Delivery]) -> None:
        """Answer a batch."""
        unusable = []
        for delivery in batch:
            reason = self._answer(delivery)
            if reason:
                topic, payload, _ = delivery.message
                unusable.append(
                    QuarantinedMessage(topic=topic, channel="renew", reason=reason, payload=payload)
                )
        self._set_aside(unusable)
        self._link.ack(batch)

    def _answer(self, delivery: Delivery) -> str:
        """Answer one request; return why it is unusable, empty when it is not."""
        try:
            device_id = parse_topic(delivery.message.topic).device_id
            request = RenewRequest.decode(delivery.message.payload)
        except ContractError as error:
            return str(error)
        answer = self._insist(lambda: (self._desk.answer(device_id, request),))
        if answer is None or answer[0] is None:
            return ""
        self.answered += 1
        topic = device_topic(device_id, Channel.CERTIFICATE)
        self._link.publish(topic, answer[0].encode(), qos=1)
        if answer[0].code:
            _LOG.warning("%s gets no certificate: %s", device_id, answer[0].detail)
        return ""


class CutLoop(Loop):
    """Ends the sessions that must end, soon after the database says so."""

    def __init__(
        self, ender: SessionEnder, is_wanted: Callable[[], bool], clock: Clock, stop: Event
    ) -> None:
        super().__init__("sessions", stop)
        self._ender, self._is_wanted, self._clock = ender, is_wanted, clock
        self._listing = Chore("revocation list", LIST_EVERY_S, ender.list_revoked)

    def turn(self) -> None:
        """Look once."""
        self._listing.do_if_due(self._clock.monotonic())
        if self._is_wanted():
            self._insist(self._ender.step)
        self._stop.wait(IDLE_S)
