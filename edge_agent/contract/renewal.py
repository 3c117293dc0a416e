"""How a device gets its next certificate over the connection its present one opened.

``up/renew`` carries a certificate request for a new key and the serial of the certificate in use;
``down/cert`` the certificate or why there is none. The server takes the name from the topic, which
the broker has tied to the certificate, never from the request. An answer may be lost or come
twice: a device asks again with the same key and is given the same certificate.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object

RENEW_BYTES_MAX = 16_384
CERTIFICATE_BYTES_MAX = 32_768
CSR_CHARS_MAX = 8_192
RETRY_AFTER_S_MAX = 30 * 86_400
_SERIAL = re.compile(r"[0-9a-f]{1,40}\Z")


class RenewalCode(StrEnum):
    """Why a certificate was not given."""

    UNKNOWN_SERIAL = "unknown-serial"
    """The server never issued such a certificate to this device."""
    REPLACED_SERIAL = "replaced-serial"
    """A newer certificate of this device has long been in use."""
    BAD_REQUEST = "bad-request"
    """The request is malformed, not signed by its key, or for another kind of key."""
    REUSED_KEY = "reused-key"
    """The request is for a key that had a certificate before."""
    TOO_OFTEN = "too-often"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """``up/renew``.

    Attributes:
        csr: Certificate request for the new key, PEM.
        serial: Of the certificate in use, lower-case hex.
        authority: sha256 of the newest authority this device trusts, which shall issue the next
            one; empty leaves it to the server.
    """

    csr: str
    serial: str
    authority: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                **self.extra,
                "v": CONTRACT_VERSION,
                "csr": self.csr,
                "serial": self.serial,
                **({"authority": self.authority} if self.authority else {}),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "RenewRequest":
        """Decode; raises ContractError."""
        fields = _open(payload, "renew", RENEW_BYTES_MAX)
        return cls(
            csr=fields.text("csr", chars_max=CSR_CHARS_MAX),
            serial=check_serial(fields.text("serial", chars_max=40), what="renew"),
            authority=fields.text("authority", "", chars_max=64),
            extra=fields.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateAnswer:
    """``down/cert``: a certificate, or a code.

    Attributes:
        serial: Of the certificate that asked, as in the request.
        certificate: The new one, PEM; empty when there is none.
        code: One of ``RenewalCode``, empty when there is a certificate; may be a newer word.
        detail: One sentence beside the code.
        retry_after_s: Asking again sooner is no use.
    """

    serial: str
    certificate: str = ""
    code: str = ""
    detail: str = ""
    retry_after_s: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as JSON."""
        return dump_object(
            {
                **self.extra,
                "v": CONTRACT_VERSION,
                "serial": self.serial,
                "certificate": self.certificate,
                "code": self.code,
                "detail": self.detail[:512],
                "retry_after_s": self.retry_after_s,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "CertificateAnswer":
        """Decode; raises ContractError."""
        fields = _open(payload, "cert", CERTIFICATE_BYTES_MAX)
        answer = cls(
            serial=check_serial(fields.text("serial", chars_max=40), what="cert"),
            certificate=fields.text("certificate", "", chars_max=CSR_CHARS_MAX),
            code=fields.text("code", "", chars_max=64),
            detail=fields.text("detail", ""),
            retry_after_s=fields.integer("retry_after_s", 0, high=RETRY_AFTER_S_MAX),
            extra=fields.rest(),
        )
        if bool(answer.certificate) == bool(answer.code):
            raise MalformedError("cert: there must be either a certificate or a code")
        return answer


def check_serial(serial: str, *, what: str) -> str:
    """Return a serial unchanged; raises MalformedError.

    >>> check_serial("3fa9", what="cert")
    '3fa9'
    """
    if not _SERIAL.match(serial):
        raise MalformedError(f"{what}: serial must be 1 to 40 hex digits, got {serial[:40]!r}")
    return serial


def _open(payload: bytes, what: str, limit_bytes: int) -> Fields:
    fields = Fields(parse_object(payload, what=what, limit_bytes=limit_bytes), what=what)
    fields.version(CONTRACT_VERSION)
    return fields
