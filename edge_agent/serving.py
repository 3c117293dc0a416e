"""What answers predictions on a device, joined: models, telemetry of their answers, HTTP.

It runs in the agent's process or in one of its own (``serving_worker.py``), by the device profile.
Importing this loads numpy; onnxruntime is loaded with the first model.
"""

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge_agent.adapters.execution_providers import ProviderWish
from edge_agent.adapters.http_access import access_of
from edge_agent.adapters.http_connection import Application
from edge_agent.adapters.http_inference_server import HttpInferenceServer
from edge_agent.adapters.inference_routes import InferenceRoutes
from edge_agent.adapters.inference_service import InferenceService
from edge_agent.adapters.onnx_model_runner import RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.shadows import shadow_maker
from edge_agent.adapters.telemetry_recorder import WindowLimits
from edge_agent.ports import Clock
from edge_agent.serving_config import ServingConfig

if TYPE_CHECKING:
    from edge_agent.adapters.row_sampler import RowPool


class Serving:
    """The slots and the server in front of them."""

    def __init__(
        self,
        config: ServingConfig,
        sockets: Sequence[socket.socket],
        *,
        clock: Clock,
        outbox: Outbox,
        watch: Callable[[Application], Application] = lambda application: application,
    ) -> None:
        """Build everything; nothing is answered yet.

        Args:
            config: How to answer.
            sockets: Listen already.
            clock: For the times of windows.
            outbox: Takes closed windows.
            watch: Put between the server and what answers.

        Raises:
            SettingsError: The files that tell who may ask are not right.
        """
        profile, settings = config.profile, config.settings
        self.service = InferenceService(
            clock=clock,
            outbox=outbox,
            boot=config.boot,
            windows=WindowLimits(
                window_s=settings.window_s or float(profile.telemetry.window_s),
                window_rows_max=profile.telemetry.window_rows_max,
            ),
            options=RuntimeOptions(
                intra_op_threads=profile.intra_op_threads,
                allow_spinning=profile.allow_spinning,
                arena=profile.arena,
                providers=ProviderWish.of(profile),
            ),
            rows=_find_row_pool(config, outbox, clock),
            make_shadow=shadow_maker(profile, clock),
        )
        routes = InferenceRoutes(
            self.service, labels=self.service.labels, outbox_counts=outbox.counts
        )
        self._server = HttpInferenceServer(
            watch(routes),
            host=settings.http_host,
            access=access_of(config.directory, settings),
            sockets=sockets,
        )

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Finish what was begun; what was counted goes into the outbox.

        Args:
            drain_s: As of the server's ``stop``.
        """
        self._server.stop(drain_s=drain_s)
        self.service.close()


def _find_row_pool(config: ServingConfig, outbox: Outbox, clock: Clock) -> "RowPool | None":
    if config.rows is None:
        return None
    from edge_agent.sampled_rows import build_row_pool  # most devices let no rows out

    return build_row_pool(config, outbox, clock)
