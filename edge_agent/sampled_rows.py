"""Sampling of raw rows joined: what a device's settings let out, within what its profile allows."""

import logging

from edge_agent.adapters.chance import random_share
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.row_key import load_row_key
from edge_agent.adapters.row_sampler import RowPool
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.ports import Clock
from edge_agent.row_settings import RowSettings
from edge_agent.serving_config import ServingConfig

BUDGET = "rows"
"""What the notes of this budget begin with, beside those of all telemetry."""
_LOG = logging.getLogger(__name__)


def build_row_pool(config: ServingConfig, outbox: Outbox, clock: Clock) -> RowPool | None:
    """Return what takes sampled rows; None when the settings or the profile allow none.

    Raises:
        SettingsError: The section is not right, or the key of hashes cannot be read or made.
        OutboxError: The outbox cannot be read.
    """
    if config.rows is None:
        return None
    settings, limits = RowSettings.from_section(config.rows), config.profile.telemetry
    if not limits.sample_bytes_per_day_max:
        _LOG.warning("profile %s allows no sampled rows: none leave", config.profile.id)
        return None
    bytes_per_day_max = min(
        settings.bytes_per_day_max,
        limits.sample_bytes_per_day_max,
        limits.uplink_bytes_per_day_max,
    )
    key = load_row_key(config.directory / settings.key_file) if settings.is_hashing else b""
    return RowPool(
        settings,
        outbox,
        UplinkMeter(bytes_per_day_max, clock, outbox.notes(), name=BUDGET),
        boot=config.boot,
        key=key,
        clock=clock,
        jitter=random_share,
    )
