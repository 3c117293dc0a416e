"""The only place a topic string is built or taken apart (docs/wire_contract.md).

A device's topics carry a bucket, the first byte of sha256(id): an MQTT filter cannot match part
of a level, so this level is what lets ingest workers and brokers share a fleet.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.contract.errors import MalformedError

PREFIX = "ef/v1"
META_TOPIC = f"{PREFIX}/meta/current"
AUTHORITIES_TOPIC = f"{PREFIX}/meta/authorities"
"""Retained: certificates of the authorities devices may trust (``contract/authorities.py``)."""
BINS_PREFIX = f"{PREFIX}/meta/packages-"
"""What the topics of all hash bins begin with."""
PACKAGES_ROLE = re.compile(r"packages-[0-9a-f]{1,4}\Z")
"""Name of a hash bin: a role that holds the signed packages whose path hashes into it."""
SERVER_FILTER = f"{PREFIX}/+/+/up/#"
"""What the server subscribes to: everything devices say."""

DEVICE_ID_CHARS_MAX = 63
DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
RESERVED_IDS = frozenset({"server", "broker"})


class Channel(StrEnum):
    """The part of a topic behind the device id."""

    STATUS = "up/status"
    REPORTED = "up/reported"
    TELEMETRY = "up/tel"
    LABELS = "up/label"
    ROWS = "up/rows"
    CHUNK_REQUEST = "up/xfer"
    RENEW = "up/renew"
    ACK = "up/ack"
    DESIRED = "down/desired"
    TELEMETRY_ACK = "down/telack"
    COMMAND = "down/cmd"
    CHUNK = "down/xfer"
    CERTIFICATE = "down/cert"


@dataclass(frozen=True, slots=True)
class Address:
    """Whose topic it is, and which one."""

    device_id: str
    channel: Channel


def check_device_id(device_id: str) -> str:
    """Return the id unchanged.

    Raises:
        MalformedError: Not 1 to 63 of [a-z0-9-] beginning with a letter or digit, or reserved.

    >>> check_device_id("cam-7")
    'cam-7'
    """
    if not DEVICE_ID.match(device_id) or device_id in RESERVED_IDS:
        raise MalformedError(
            f"device id {device_id[:80]!r}: use 1 to 63 of a-z, 0-9 and '-', not beginning with"
            f" '-', and none of {', '.join(sorted(RESERVED_IDS))}"
        )
    return device_id


def bucket_of(device_id: str) -> str:
    """Return the device's bucket, two hex digits.

    >>> bucket_of("cam-7")
    'be'
    """
    return hashlib.sha256(device_id.encode()).hexdigest()[:2]


def device_topic(device_id: str, channel: Channel) -> str:
    """Build a device's topic.

    >>> device_topic("cam-7", Channel.TELEMETRY)
    'ef/v1/be/cam-7/up/tel'
    """
    return f"{PREFIX}/{bucket_of(device_id)}/{device_id}/{channel}"


def meta_topic(role: str) -> str:
    """Build the retained topic of one hash bin's metadata.

    Raises:
        MalformedError: No name of a bin.

    >>> meta_topic("packages-1f")
    'ef/v1/meta/packages-1f'
    """
    if not PACKAGES_ROLE.match(role):
        raise MalformedError(f"{role[:80]!r} is no hash bin: packages- and 1 to 4 hex digits")
    return f"{PREFIX}/meta/{role}"


def device_filter(device_id: str) -> str:
    """Build the one filter a device subscribes to for everything meant for it alone."""
    return f"{PREFIX}/{bucket_of(device_id)}/{device_id}/down/#"


def parse_topic(topic: str) -> Address:
    """Take a device topic apart.

    Raises:
        MalformedError: Not a device topic, or the bucket is not the id's.

    >>> parse_topic("ef/v1/be/cam-7/up/tel").channel
    <Channel.TELEMETRY: 'up/tel'>
    """
    parts = topic.split("/")
    if len(parts) != 6 or "/".join(parts[:2]) != PREFIX:
        raise MalformedError(f"topic {topic[:200]!r} is not {PREFIX}/BUCKET/DEVICE/DIRECTION/NAME")
    device_id = check_device_id(parts[3])
    if parts[2] != bucket_of(device_id):
        raise MalformedError(
            f"topic {topic[:200]!r}: bucket {parts[2]!r} is not that of {device_id},"
            f" which is {bucket_of(device_id)}"
        )
    try:
        return Address(device_id, Channel("/".join(parts[4:])))
    except ValueError as error:
        raise MalformedError(f"topic {topic[:200]!r}: unknown channel") from error
