"""What the directory of an agent on this machine tells who wants to ask it: address and token."""

import ssl
from pathlib import Path

from edge_agent.adapters.directory_lock import is_locked, read_holder
from edge_agent.adapters.http_access import read_token
from edge_agent.client_connection import Address
from edge_agent.errors import ServingError, SettingsError, UnreachableError
from edge_agent.settings import load_settings

_LOOPBACK_OF_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - is left


def find_address(directory: Path, tls: ssl.SSLContext | None = None) -> Address:
    """Return where the agent of the directory answers now.

    Args:
        directory: The agent's.
        tls: Overrides what the settings say about its certificate.

    Raises:
        UnreachableError: No agent runs on the directory, or it does not listen yet.
        ServingError: It wants a client certificate, and ``tls`` is None.
        SettingsError: The certificate the settings name cannot be read.
    """
    facts = read_holder(directory) if is_locked(directory) else None
    if not facts or "http_port" not in facts:
        raise UnreachableError(f"no agent runs on {directory}; start it with edge-agent run")
    host = str(facts["http_host"])
    settings = load_settings(directory)
    if settings.http_certificate_file and tls is None:
        if settings.http_client_ca_file:
            raise ServingError(
                f"the agent on {directory} wants a client certificate; give connect() a tls"
                " context that bears one"
            )
        tls = _trust_only(directory / settings.http_certificate_file)
    is_https = bool(settings.http_certificate_file)
    return Address(
        host=_LOOPBACK_OF_ANY.get(host, host),
        port=int(facts["http_port"]),
        tls=tls if is_https else None,
    )


def find_token(directory: Path) -> str:
    """Return the token that the agent's settings name, "" for none; raises SettingsError."""
    name = load_settings(directory).http_token_file
    return read_token(directory / name).decode("ascii") if name else ""


def _trust_only(certificate: Path) -> ssl.SSLContext:
    """Trust this very certificate, whatever name the agent is asked under."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"http_certificate_file {certificate} cannot be read: {error}"
        ) from error
    return context
