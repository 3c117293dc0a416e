"""Let a device in: its join secret and a key of its own against a certificate.

The name in the certificate is that of the token's record. The certificate is issued inside the
transaction that uses the token up, so a request that is refused leaves the token as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.contract.join import EnrolGrant
from fleet_server.errors import RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import DeviceRecord, JoinToken, Ledger, Ledgers
from fleet_server.ports.trust import CertificateIssuer
from fleet_server.services.add_device import Place, hash_secret


class JoinRefusedError(RefusedError):
    """The join string is unknown, used, expired or cancelled; a new one is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentDesk:
    """Answers devices that want to join.

    Attributes:
        ledgers: Opens transactions.
        issuer: Issues and revokes certificates.
        root: Returns the TUF root file of a sha256, the newest for an empty or unknown one.
        place: Where devices find the broker.
        clock: Time of day.
    """

    ledgers: Ledgers
    issuer: CertificateIssuer
    root: Callable[[str], bytes]
    place: Callable[[], Place]
    clock: Clock

    def enrol(self, secret: str, csr_pem: bytes, *, root_sha256: str = "") -> EnrolGrant:
        """Issue a certificate; the secret works no second time.

        Args:
            secret: From the join string.
            csr_pem: Certificate request for the device's own key.
            root_sha256: The root that the join string pins; later roots reach the device with
                its first metadata.

        Raises:
            JoinRefusedError: The secret is unknown, used, expired or cancelled.
            RefusedError: The certificate request is malformed; the secret still works.
        """
        now_at, secret_sha256 = self.clock.now(), hash_secret(secret)
        with self.ledgers() as ledger:
            device = self._check(ledger, secret_sha256)
            issued = self.issuer.issue_device(csr_pem, device.id)
            ledger.devices.mark_enrolled(
                device.number,
                secret_sha256,
                serial=issued.serial,
                expires_at=issued.expires_at,
                at=now_at,
            )
            ledger.audit.append(
                at=now_at,
                actor=f"device {device.id}",
                act="device.enrol",
                subject=device.id,
                detail={"serial": issued.serial, "replaces": device.certificate_serial},
            )
        if device.certificate_serial:
            self.issuer.revoke([device.certificate_serial])
        place = self.place()
        return EnrolGrant(
            device_id=device.id,
            profile=device.profile,
            fleet=place.fleet,
            certificate=issued.pem.decode(),
            ca=self.issuer.ca_pem.decode(),
            root=self.root(root_sha256).decode(),
            mqtt_host=place.host,
            mqtt_port=place.mqtt_port,
        )

    def _check(self, ledger: Ledger, secret_sha256: str) -> DeviceRecord:
        """Return whom a secret belongs to; found by its hash, so timing tells nothing of it.

        Raises:
            JoinRefusedError: It may not be used.
        """
        token = ledger.devices.find_token(secret_sha256)
        if token is None:
            raise JoinRefusedError(
                "this server does not know the join string: it was mistyped or is another"
                " server's; make one with `edgefleet device add ID --profile PROFILE`"
            )
        device = ledger.devices.get(token.device)
        problem = self._find_problem(token)
        if problem:
            raise JoinRefusedError(
                f"the join string of {device.id} {problem}; make a new one with"
                f" `edgefleet device add {device.id} --again`"
            )
        return device

    def _find_problem(self, token: JoinToken) -> str:
        if token.used_at is not None:
            return f"was used at {token.used_at:%Y-%m-%d %H:%M:%S} UTC"
        if token.expires_at <= self.clock.now():
            return f"expired or was cancelled at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        return ""
