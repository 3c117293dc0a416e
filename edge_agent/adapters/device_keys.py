"""Keys and certificate requests of a device, and what makes a certificate its own: P-256 keys."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID


def make_key() -> EllipticCurvePrivateKey:
    """Make a new key."""
    return generate_private_key(SECP256R1())


def make_request(key: EllipticCurvePrivateKey, device_id: str) -> bytes:
    """Make a certificate request, PEM; the server decides the name, whatever this one says."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM)


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Give a private key as it is stored."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def find_certificate_problem(
    certificate_pem: bytes, ca_pem: bytes, key: EllipticCurvePrivateKey, device_id: str
) -> str:
    """Say why a certificate is none of an authority of ours for our key and id; empty when it is.

    ``ca_pem`` holds one authority or, while one follows another, several.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        authorities = x509.load_pem_x509_certificates(ca_pem)
        if find_issuer(certificate, authorities) is None:
            certificate.verify_directly_issued_by(authorities[0])
        names = [
            attribute.value
            for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
    except (
        ValueError,
        TypeError,
        InvalidSignature,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
    ) as error:
        return f"the certificate does not hold ({error})"
    if names != [device_id] or certificate.public_key() != key.public_key():
        return "the certificate is for another name or key"
    return ""


def find_issuer(
    certificate: x509.Certificate, authorities: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    """Return the authority that issued a certificate; None when it is none of these."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return authority
    return None


def load_key(pem: bytes | None) -> EllipticCurvePrivateKey | None:
    """Read a private key; None when there is none that can be read."""
    if pem is None:
        return None
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, EllipticCurvePrivateKey) else None
