"""How a device joins: the join string a person carries, and the two messages of enrolment.

The string pins what the device may believe before it knows anybody: the sha256 of the CA's
certificate (DER) and of the TUF root. Enrolment is two HTTPS requests: ``GET`` the certificate
of the CA, which must have the pinned hash, then ``POST`` the secret over TLS verified with it.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.digits import check_sha256
from edge_agent.contract.errors import MalformedError, TooLargeError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.topics import check_device_id

PREFIX = "ef1:"
JOIN_CHARS_MAX = 2_048
CA_PATH = "/v1/enrol/ca"
ENROL_PATH = "/v1/enrol"
REQUEST_BYTES_MAX = 16_384
CA_BYTES_MAX = 16_384
GRANT_BYTES_MAX = 1_048_576
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTicket:
    """What a join string says.

    Attributes:
        host: Server name or address.
        api_port: HTTPS port of enrolment.
        mqtt_port: TLS port of the broker.
        fleet: Name of the fleet.
        device_id: Who will have joined.
        ca_sha256: Of the CA's certificate in DER form, 64 hex digits.
        root_sha256: Of the TUF root file, 64 hex digits.
        secret: Known to the server by its sha256 only; used once.
        is_plain: The server speaks no TLS (``edgefleet up --insecure-loopback``); written only
            when true, and followed only to this machine's own loopback.
    """

    host: str
    api_port: int
    mqtt_port: int
    fleet: str
    device_id: str
    ca_sha256: str
    root_sha256: str
    secret: str
    is_plain: bool = False

    def encode(self) -> str:
        """Write the join string."""
        value = {
            "h": self.host,
            "a": self.api_port,
            "m": self.mqtt_port,
            "f": self.fleet,
            "d": self.device_id,
            "c": self.ca_sha256,
            "r": self.root_sha256,
            "s": self.secret,
            **({"p": True} if self.is_plain else {}),
        }
        return PREFIX + base64.urlsafe_b64encode(dump_object(value)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "JoinTicket":
        """Read a join string; spaces and line breaks that copying added do not matter.

        Raises:
            ContractError: Not a join string, or not whole.
        """
        what = "join string"
        text = "".join(text.split())
        if len(text) > JOIN_CHARS_MAX:
            raise TooLargeError(what, len(text), JOIN_CHARS_MAX)
        if not text.startswith(PREFIX):
            raise MalformedError(f"{what} must begin with {PREFIX}, got {text[:12]!r}")
        body = text.removeprefix(PREFIX)
        try:
            plain = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedError(f"{what} is cut short or mistyped: {error}") from error
        fields = Fields(parse_object(plain, what=what, limit_bytes=JOIN_CHARS_MAX), what=what)
        return cls(
            host=check_host(fields.text("h", chars_max=253)),
            api_port=fields.integer("a", low=1, high=65_535),
            mqtt_port=fields.integer("m", low=1, high=65_535),
            fleet=fields.text("f", chars_max=64),
            device_id=check_device_id(fields.text("d", chars_max=64)),
            ca_sha256=check_sha256(fields.text("c", chars_max=64), what=what),
            root_sha256=check_sha256(fields.text("r", chars_max=64), what=what),
            secret=fields.text("s", chars_max=128),
            is_plain=fields.flag("p", default=False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """``POST /v1/enrol``: the secret, the key to be certified, and the root that is pinned."""

    secret: str
    csr: str
    root_sha256: str = ""

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                "v": CONTRACT_VERSION,
                "secret": self.secret,
                "csr": self.csr,
                "root": self.root_sha256,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "EnrolRequest":
        """Decode; raises ContractError."""
        what = "enrolment"
        fields = Fields(parse_object(payload, what=what, limit_bytes=REQUEST_BYTES_MAX), what=what)
        fields.version(CONTRACT_VERSION)
        return cls(
            secret=fields.text("secret", chars_max=128),
            csr=fields.text("csr", chars_max=8_192),
            root_sha256=fields.text("root", "", chars_max=64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolGrant:
    """The answer: who the device is from now on.

    Attributes:
        device_id: The name in the certificate.
        profile: Device profile it was added with.
        fleet: Name of the fleet.
        certificate: PEM.
        ca: PEM.
        root: The TUF root file whose hash the join string pins.
        mqtt_host: Where the broker is.
        mqtt_port: TLS port of the broker.
    """

    device_id: str
    profile: str
    fleet: str
    certificate: str
    ca: str
    root: str
    mqtt_host: str
    mqtt_port: int

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                "v": CONTRACT_VERSION,
                "device": self.device_id,
                "profile": self.profile,
                "fleet": self.fleet,
                "certificate": self.certificate,
                "ca": self.ca,
                "root": self.root,
                "mqtt": {"host": self.mqtt_host, "port": self.mqtt_port},
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "EnrolGrant":
        """Decode; raises ContractError."""
        what = "enrolment answer"
        fields = Fields(parse_object(payload, what=what, limit_bytes=GRANT_BYTES_MAX), what=what)
        fields.version(CONTRACT_VERSION)
        mqtt = Fields(fields.mapping("mqtt"), what=what)
        return cls(
            device_id=check_device_id(fields.text("device", chars_max=64)),
            profile=fields.text("profile", chars_max=64),
            fleet=fields.text("fleet", chars_max=64),
            certificate=fields.text("certificate", chars_max=16_384),
            ca=fields.text("ca", chars_max=CA_BYTES_MAX),
            root=fields.text("root", chars_max=512_000),
            mqtt_host=check_host(mqtt.text("host", chars_max=253)),
            mqtt_port=mqtt.integer("port", low=1, high=65_535),
        )


def check_host(host: str) -> str:
    """Return a host name or address unchanged; raises MalformedError otherwise.

    >>> check_host("fleet.example")
    'fleet.example'
    """
    if not _HOST.match(host):
        raise MalformedError(f"{json.dumps(host[:80])} is not a host name or address")
    return host
