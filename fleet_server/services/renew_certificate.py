"""Give a device its next certificate, asked for over its own broker connection.

Who asks is the id in the topic, which the broker ties to the certificate of the connection; the
request decides nothing but the key. The decision is ``core/renewal.py``. The certificate is issued
inside the transaction that records it, so an answer may be lost but never forgotten.
"""

from dataclasses import dataclass, field

from edge_agent.contract.renewal import CertificateAnswer, RenewalCode, RenewRequest
from fleet_server.core.quota import Quota
from fleet_server.core.renewal import RenewalStep, RenewalVerdict, judge_renewal
from fleet_server.errors import RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import DeviceRecord, Ledger, Ledgers
from fleet_server.ports.trust import CertificateIssuer

REQUESTS_PER_HOUR_MAX = 20
"""Of one device that are looked at; the rest is dropped unanswered."""
REFUSALS_TOLD_PER_HOUR_MAX = 3
"""Audit rows about one device's refused requests."""
HOUR_S = 3_600.0
REFUSED_RETRY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalDesk:
    """Answers devices that ask for their next certificate; called from one thread.

    Attributes:
        ledgers: Opens transactions.
        issuer: Issues certificates.
        clock: Time of day.
    """

    ledgers: Ledgers
    issuer: CertificateIssuer
    clock: Clock
    requests: Quota = field(
        default_factory=lambda: Quota(count_max=REQUESTS_PER_HOUR_MAX, period_s=HOUR_S)
    )
    told: Quota = field(
        default_factory=lambda: Quota(count_max=REFUSALS_TOLD_PER_HOUR_MAX, period_s=HOUR_S)
    )

    def answer(self, device_id: str, request: RenewRequest) -> CertificateAnswer | None:
        """Issue, repeat or refuse; None when the request deserves no answer.

        Raises:
            FleetError: The database or the authority's files cannot be used; ask again.
        """
        if not self.requests.take(device_id, self.clock.monotonic()):
            return None
        with self.ledgers() as ledger:
            device = ledger.devices.find(device_id)
            if device is None or device.revoked_at is not None:
                return None
            try:
                key_sha256 = self.issuer.read_key(request.csr.encode())
            except RefusedError as error:
                return self._refuse(
                    ledger,
                    device,
                    CertificateAnswer(
                        serial=request.serial,
                        code=RenewalCode.BAD_REQUEST,
                        detail=str(error),
                        retry_after_s=REFUSED_RETRY_S,
                    ),
                )
            now_at = self.clock.now()
            known = ledger.certificates.list_unexpired(device.number, now_at=now_at)
            verdict = judge_renewal(request.serial, key_sha256, known, now_at=now_at)
            match verdict.step:
                case RenewalStep.ISSUE:
                    return self._issue(ledger, device, request)
                case RenewalStep.REPEAT:
                    return CertificateAnswer(serial=request.serial, certificate=known[-1].pem)
            return self._refuse(ledger, device, _answer_of(verdict, request), verdict.evidence)

    def _issue(
        self, ledger: Ledger, device: DeviceRecord, request: RenewRequest
    ) -> CertificateAnswer:
        now_at = self.clock.now()
        issued = self.issuer.issue_device(
            request.csr.encode(), device.id, authority=request.authority
        )
        ledger.certificates.add(device.number, issued, at=now_at)
        ledger.devices.set_certificate(device.number, issued.serial, expires_at=issued.expires_at)
        ledger.audit.append(
            at=now_at,
            actor=f"device {device.id}",
            act="device.renewed",
            subject=device.id,
            detail={
                "serial": issued.serial,
                "former": request.serial,
                "expires_at": issued.expires_at,
            },
        )
        return CertificateAnswer(serial=request.serial, certificate=issued.pem.decode())

    def _refuse(
        self, ledger: Ledger, device: DeviceRecord, answer: CertificateAnswer, evidence: str = ""
    ) -> CertificateAnswer:
        now_at, actor = self.clock.now(), f"device {device.id}"
        if self.told.take(device.id, self.clock.monotonic()):
            ledger.audit.append(
                at=now_at,
                actor=actor,
                act="device.renewal_refused",
                subject=device.id,
                reason=answer.detail,
                detail={
                    "code": str(answer.code),
                    "serial": answer.serial,
                    "untold": self.told.take_refused(device.id),
                },
            )
        if evidence and ledger.devices.mark_cloned(device.number, evidence, at=now_at):
            ledger.audit.append(
                at=now_at, actor=actor, act="device.cloned", subject=device.id, reason=evidence
            )
        return answer


def _answer_of(verdict: RenewalVerdict, request: RenewRequest) -> CertificateAnswer:
    return CertificateAnswer(
        serial=request.serial,
        code=str(verdict.code),
        detail=verdict.detail,
        retry_after_s=int(verdict.retry_after.total_seconds()),
    )
