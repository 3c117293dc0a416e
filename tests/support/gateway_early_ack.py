"""The gateway with a seeded bug: it acknowledges telemetry before the commit.

The kill harness must lose windows with it; otherwise its zeros mean nothing.
"""

import time
from collections.abc import Sequence

from fleet_server.adapters.mqtt_gateway import Delivery
from fleet_server.services.ingest_windows import SortedMessages, sort_messages
from fleet_server.workers import gateway
from fleet_server.workers.gateway_loops import TelemetryLoop

WINDOW_S = 0.1


class EarlyLoop(TelemetryLoop):
    def _commit(self, batch: Sequence[Delivery]) -> SortedMessages:
        said = sort_messages([delivery.message for delivery in batch], self._directory)
        super()._acknowledge(batch, said)
        time.sleep(WINDOW_S)
        return super()._commit(batch)

    def _acknowledge(self, batch: Sequence[Delivery], said: SortedMessages) -> None:
        """It was done already."""


if __name__ == "__main__":
    setattr(gateway, TelemetryLoop.__name__, EarlyLoop)
    gateway.main()
