"""Power cuts while a device joins, joins another fleet, and renews its certificate."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from edge_agent.adapters import enrolment
from edge_agent.adapters.device_keys import find_certificate_problem, load_key, make_key
from edge_agent.adapters.identity_renewer import FileIdentityRenewer
from edge_agent.adapters.identity_store import is_enrolled, load_identity
from edge_agent.contract.authorities import split_bundle
from edge_agent.contract.join import EnrolGrant, JoinTicket
from edge_agent.ports import Identity
from tests.support.clock import FakeClock
from tests.support.power_cut import CrashState, Recording, RecordingOs, recording

DEVICE = "cam-7"
ROOT = "1\n"
HOME = "agent"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class PlayedAuthority:
    """Signs whatever a device asks for, as an enrolment server would."""

    name: str
    issued: list[x509.Certificate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._key = make_key()
        self.certificate = self._sign(self.name, self._key.public_key(), is_ca=True)
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.sha256 = hashlib.sha256(self.certificate.public_bytes(Encoding.DER)).hexdigest()

    def issue(self, csr: bytes, *, is_noted: bool = True) -> str:
        """Sign; ``is_noted`` for what is recorded, not for the retries."""
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        assert isinstance(key, EllipticCurvePublicKey)
        certificate = self._sign(DEVICE, key, is_ca=False)
        if is_noted:
            self.issued.append(certificate)
        return certificate.public_bytes(Encoding.PEM).decode()

    def ticket(self) -> JoinTicket:
        return JoinTicket(
            host="127.0.0.1",
            api_port=1,
            mqtt_port=2,
            fleet=self.name,
            device_id=DEVICE,
            ca_sha256=self.sha256,
            root_sha256=hashlib.sha256(ROOT.encode()).hexdigest(),
            secret="secret",
        )

    @contextmanager
    def answering(self, *, is_noted: bool) -> Iterator[None]:
        """Play the two requests of joining; everything else of it is real."""

        def grant(ticket: JoinTicket, ca_pem: bytes, csr: bytes, timeout_s: float) -> EnrolGrant:
            assert timeout_s > 0
            return EnrolGrant(
                device_id=ticket.device_id,
                profile="camera",
                fleet=ticket.fleet,
                certificate=self.issue(csr, is_noted=is_noted),
                ca=ca_pem.decode(),
                root=ROOT,
                mqtt_host=ticket.host,
                mqtt_port=ticket.mqtt_port,
            )

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(enrolment, "_fetch_ca", lambda *_: self.pem)
            patch.setattr(enrolment, "_request_certificate", grant)
            yield

    def _sign(self, name: str, key: EllipticCurvePublicKey, *, is_ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW)
            .not_valid_after(_NOW + timedelta(days=90))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(self._key, SHA256())
        )


def join(authority: PlayedAuthority, directory: Path, *, is_noted: bool = True) -> Identity:
    with authority.answering(is_noted=is_noted):
        return enrolment.enrol(authority.ticket().encode(), directory, is_replacing=True)


def renew(authority: PlayedAuthority, directory: Path, recorded: Recording | None = None) -> bytes:
    """What a running agent does; returns the key it asked for."""

    def mark(name: str, value: object) -> None:
        if recorded is not None:
            recorded.mark(name, value)

    renewer = FileIdentityRenewer(
        load_identity(directory),
        FakeClock(_NOW),
        on_renewed=lambda identity: mark("joined", _serial(identity)),
    )
    csr = renewer.prepare().encode()
    asked = _key_bytes(x509.load_pem_x509_csr(csr).public_key())
    mark("asked", asked)
    pem = authority.issue(csr, is_noted=recorded is not None)
    mark("answered", True)
    renewer.accept(pem)
    return asked


@dataclass(frozen=True, kw_only=True)
class IdentityScenario:
    """Joining or renewing, cut short; ``check`` says what holds after every cut.

    Attributes:
        name: For people.
        before: Whose device it is before; None for one that never joined.
        after: Who signs now.
        is_renewal: Whether it renews, else it joins.
    """

    name: str
    after: PlayedAuthority
    before: PlayedAuthority | None = None
    is_renewal: bool = False

    def prepare(self, directory: Path) -> None:
        if self.before is not None:
            join(self.before, directory)

    def live(self, directory: Path) -> None:
        """Join or renew; who issued what is not noted."""
        if self.is_renewal:
            renew(self.after, directory)
        else:
            join(self.after, directory, is_noted=False)

    def record(self, root: Path, seam: type[RecordingOs] | None = None) -> Recording:
        directory = root / HOME
        self.prepare(directory)
        with recording(root, seam) as recorded:
            if self.before is not None:
                recorded.mark("joined", _serial(load_identity(directory)))
            if self.is_renewal:
                renew(self.after, directory, recorded)
            else:
                recorded.mark("joined", _serial(join(self.after, directory)))
        return recorded

    def check(self, state: CrashState, root: Path) -> None:
        directory, promised = root / HOME, state.marks.get("joined")
        newest = self.after.issued[-1].serial_number
        if promised is not None or is_enrolled(directory):
            serial = check_whole(directory)
            assert serial in (promised, newest), "the identity in use is one that was replaced"
        if self.is_renewal:
            self._renew_again(state, directory)
        else:
            join(self.after, directory, is_noted=False)
        serial = check_whole(directory)
        assert serial not in (promised, newest)
        identity = load_identity(directory)
        names = {path.name for path in identity.directory.iterdir()}
        used = {"identity.json", identity.ca, f"{identity.pair}.pem", f"{identity.pair}.key"}
        left = {name for name in names - used if not name.endswith(".tmp")}
        assert not left, f"left over: {sorted(left)}"

    def _renew_again(self, state: CrashState, directory: Path) -> None:
        serial = _serial(load_identity(directory))
        is_new = serial == self.after.issued[-1].serial_number
        asked = renew(self.after, directory)
        if "asked" in state.marks and "answered" not in state.marks:
            assert asked == state.marks["asked"], "a key that was shown to the server is gone"
        former = self.after.issued if is_new else self.after.issued[:-1]
        keys = [_key_bytes(certificate.public_key()) for certificate in former]
        assert asked not in keys, "a former key was asked for again"


@dataclass(frozen=True, kw_only=True)
class AuthorityScenario:
    """A device follows its fleet to another certificate authority, cut short.

    Attributes:
        name: For people.
        before: Who signed its certificate.
        after: Who takes over: listed beside the former, signs the next certificate, stays alone.
    """

    name: str
    before: PlayedAuthority
    after: PlayedAuthority

    def prepare(self, directory: Path) -> None:
        join(self.before, directory)

    def live(self, directory: Path) -> None:
        both = (self.after.sha256, self.before.sha256)
        bundle = self.before.pem + self.after.pem
        self._renewer(directory).follow_authorities(both, bundle)
        renew(self.after, directory)
        self._renewer(directory).follow_authorities((self.after.sha256,), b"")

    def record(self, root: Path, seam: type[RecordingOs] | None = None) -> Recording:
        directory = root / HOME
        self.prepare(directory)
        with recording(root, seam) as recorded:
            self.live(directory)
        return recorded

    def check(self, state: CrashState, root: Path) -> None:
        """Whatever was cut: it can connect, trusts nobody else, and gets there."""
        assert state.at >= 0
        directory = root / HOME
        check_whole(directory)
        known = ({self.before.sha256}, {self.before.sha256, self.after.sha256}, {self.after.sha256})
        assert self._trusted(directory) in known, "what is trusted is torn"
        self.live(directory)
        check_whole(directory)
        assert self._trusted(directory) == {self.after.sha256}
        certificate = x509.load_pem_x509_certificate(
            load_identity(directory).certificate_path.read_bytes()
        )
        assert certificate.issuer == self.after.certificate.subject

    @staticmethod
    def _renewer(directory: Path) -> FileIdentityRenewer:
        return FileIdentityRenewer(
            load_identity(directory), FakeClock(_NOW), on_renewed=lambda _: None
        )

    @staticmethod
    def _trusted(directory: Path) -> set[str]:
        return set(split_bundle(load_identity(directory).ca_path.read_bytes()))


def identity_scenarios() -> tuple[IdentityScenario | AuthorityScenario, ...]:
    """Make them anew: what an authority issued belongs to one run."""
    one, two, three, four, five, six = (
        PlayedAuthority(name) for name in ("one", "two", "three", "four", "five", "six")
    )
    return (
        IdentityScenario(name="joining", after=one),
        IdentityScenario(name="joining another fleet", before=two, after=three),
        IdentityScenario(name="renewal", before=four, after=four, is_renewal=True),
        AuthorityScenario(name="another authority", before=five, after=six),
    )


def check_whole(directory: Path) -> int:
    identity = load_identity(directory)
    key = load_key(identity.key_path.read_bytes())
    assert key is not None, "the key is torn"
    certificate, ca = identity.certificate_path.read_bytes(), identity.ca_path.read_bytes()
    problem = find_certificate_problem(certificate, ca, key, DEVICE)
    assert not problem, problem
    return _serial(identity)


def _serial(identity: Identity) -> int:
    pem = identity.certificate_path.read_bytes()
    return x509.load_pem_x509_certificate(pem).serial_number


def _key_bytes(key: object) -> bytes:
    assert isinstance(key, EllipticCurvePublicKey)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
