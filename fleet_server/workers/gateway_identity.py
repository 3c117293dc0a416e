"""The gateway's work on identities: answers to renewals, and the end of sessions.

Renewals have an inbox of their own: issuing must not hold up reports. What does not fit is
acknowledged and dropped, for the device asks again.
"""

import logging
from collections.abc import Callable
from threading import Event

from edge_agent.contract.errors import ContractError
from edge_agent.contract.renewal import RenewRequest
from edge_agent.contract.topics import Channel, device_topic, parse_topic
from fleet_server.adapters.mqtt_gateway import Delivery, Inbox, MqttLink
from fleet_server.ports.clock import Clock
from fleet_server.ports.telemetry import QuarantinedMessage
from fleet_server.services.end_sessions import SessionEnder
from fleet_server.services.ingest_windows import IngestWindows, SortedMessages
from fleet_server.services.renew_certificate import RenewalDesk
from fleet_server.workers.gateway_loops import IDLE_S, Chore, Loop

RENEWALS_WAITING_MAX = 1_000
BATCH_MESSAGES_MAX, BATCH_BYTES_MAX = 50, 1_048_576
LIST_EVERY_S = 60.0
RENEW_SUFFIX = f"/{Channel.RENEW}"
_LOG = logging.getLogger(__name__)


class RenewLoop(Loop):
    """Requests for the next certificate in, certificates out."""

    def __init__(
        self,
        link: MqttLink,
        desk: RenewalDesk,
        ingest: IngestWindows,
        clock: Clock,
        stop: Event,
    ) -> None:
        super().__init__("renewals", stop)
        self._link, self._desk, self._ingest, self._clock = link, desk, ingest, clock
        self._inbox = Inbox(RENEWALS_WAITING_MAX)
        self.answered = self.dropped = 0

    def take(self, delivery: Delivery) -> bool:
        """Take a delivery that is a request; False when it is something else. Never waits."""
        if not delivery.message.topic.endswith(RENEW_SUFFIX):
            return False
        if len(self._inbox) < RENEWALS_WAITING_MAX:
            self._inbox.put(delivery)
        else:
            self.dropped += 1
            self._link.ack([delivery])
        return True

    def close(self) -> None:
        """Let nobody wait any more."""
        self._inbox.close()

    def turn(self) -> None:
        """Answer what waits."""
        batch = self._inbox.take(
            messages_max=BATCH_MESSAGES_MAX,
            bytes_max=BATCH_BYTES_MAX,
            linger_s=0,
            timeout_s=IDLE_S,
        )
        unusable = SortedMessages()
        for delivery in batch:
            reason = self._answer(delivery)
            if reason:
                topic, payload, _ = delivery.message
                unusable.quarantined.append(
                    QuarantinedMessage(topic=topic, channel="renew", reason=reason, payload=payload)
                )
        if unusable.quarantined:
            self._insist(lambda: self._ingest.commit(unusable, received_at=self._clock.now()))
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
