"""A person's key in a PKCS#11 token: the private half never leaves it.

The operator's folder then holds ``approver.toml`` (or ``root.toml``) with the key's address, its
public half and the vendor's PKCS#11 module. Devices and server see an ordinary ECDSA key and need
no PKCS#11. The PIN is asked for on the terminal or taken from ``EDGEFLEET_PIN``; a wrong one is
tried once, because tokens lock themselves. Needs the extra ``token``.
"""

import os
import tomllib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Signature, SSlibKey

from fleet_server.adapters.key_files import KEY_BYTES_MAX, Ask, parse_public_key, public_pem
from fleet_server.durable_files import write_durable
from fleet_server.errors import MisuseError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

PIN_VARIABLE = "EDGEFLEET_PIN"
MODULE_VARIABLE = "PYKCS11LIB"
SIGNATURE_SLOT = 2
"""Key id on the token; 2 is PIV slot 9c, the one for digital signatures."""


class TokenSigner(HSMSigner):
    """Signs in the token; says what went wrong in one sentence."""

    def sign(self, payload: bytes) -> Signature:
        """Sign ``payload``; raises RefusedError when token, key or PIN are not there."""
        with _token_errors(self.token_label or ""):
            return super().sign(payload)


def load_token(path: Path, ask: Ask | None = None) -> TokenSigner:
    """Open the token a file describes; it is touched only when it signs.

    Raises:
        RefusedError: The file is malformed.
        MisuseError: The extra or the module is missing.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.loads(file.read(KEY_BYTES_MAX).decode())
        uri, module, pem = (str(values[name]) for name in ("uri", "module", "public"))
    except (OSError, ValueError, KeyError) as error:
        raise RefusedError(f"{path} does not describe a token key: {error!r:.200}") from error
    public = parse_public_key(pem.encode(), what=str(path))
    _choose_module(Path(module))
    try:
        signer = TokenSigner.from_priv_key_uri(uri, public, _pin_of(ask))
    except UnsupportedLibraryError as error:
        raise _missing_extra() from error
    except ValueError as error:
        raise RefusedError(f"{path}: {error}") from error
    assert isinstance(signer, TokenSigner)  # noqa: S101 - a classmethod that builds its own class
    return signer


def describe_token(
    path: Path, *, label: str, slot: int, module: Path | None, ask: Ask | None
) -> SSlibKey:
    """Write the file that describes a token's key; make a P-256 key there when it has none.

    Args:
        path: The file.
        label: Of the token.
        slot: Id of the key on the token.
        module: The vendor's PKCS#11 library; None takes the one ``PYKCS11LIB`` names.
        ask: Asks for the PIN.

    Raises:
        MisuseError: The extra or the module is missing.
        RefusedError: No such token, a wrong PIN, or a key of a kind that cannot approve.
    """
    module = _choose_module(module)
    pin = _pin_of(ask)
    with _token_errors(label):
        try:
            uri, public = HSMSigner.import_(slot, label, pin)
        except ValueError as error:
            if "could not find" not in str(error):
                raise
            _generate(label, slot, pin)
            uri, public = HSMSigner.import_(slot, label, pin)
    pem = public_pem(public).decode()
    text = f"uri = '{uri}'\nmodule = '{module}'\npublic = '''\n{pem}'''\n"
    write_durable(path, text.encode(), mode=0o600)
    return parse_public_key(pem.encode(), what=str(path))


def _generate(label: str, slot: int, pin: Callable[[str], str]) -> None:
    """Make a P-256 pair in the token; the private half cannot be read out."""
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    library = pkcs11.lib(os.environ[MODULE_VARIABLE])
    token = library.get_token(token_label=label)
    with token.open(rw=True, user_pin=pin("pin")) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        identity: Any = slot.to_bytes(max(1, (slot.bit_length() + 7) // 8), "big")
        parameters.generate_keypair(store=True, id=identity, label="edgefleet")


def _choose_module(module: Path | None) -> Path:
    """Find the vendor's library; the environment wins over what the file says."""
    named = os.environ.get(MODULE_VARIABLE)
    chosen = Path(named) if named else module
    if chosen is None:
        raise MisuseError(
            f"a token needs its vendor's PKCS#11 library: --module FILE, or {MODULE_VARIABLE}"
        )
    if not chosen.is_file():
        raise MisuseError(
            f"no PKCS#11 library {chosen}; name it with {MODULE_VARIABLE} or --module"
        )
    os.environ[MODULE_VARIABLE] = str(chosen)
    return chosen


def _pin_of(ask: Ask | None) -> Callable[[str], str]:
    """Give what asks for the PIN, once a process."""
    known: list[str] = []

    def pin(_: str) -> str:
        if not known:
            text = os.environ.get(PIN_VARIABLE) or (ask("PIN of the token") if ask else "")
            if not text:
                raise RefusedError(f"the token needs its PIN; set {PIN_VARIABLE}")
            known.append(text)
        return known[0]

    return pin


@contextmanager
def _token_errors(label: str) -> "Iterator[None]":
    """Turn what the library says into a sentence."""
    try:
        from pkcs11.exceptions import PinIncorrect, PinLocked, PKCS11Error
    except ImportError as error:
        raise _missing_extra() from error
    try:
        yield
    except UnsupportedLibraryError as error:
        raise _missing_extra() from error
    except PinLocked as error:
        raise RefusedError(
            f"token {label}: its PIN is locked; unlock it with its own tool"
        ) from error
    except PinIncorrect as error:
        raise RefusedError(f"token {label}: wrong PIN; it was tried once") from error
    except (ValueError, PKCS11Error) as error:
        raise RefusedError(f"token {label}: {str(error) or type(error).__name__}") from error


def _missing_extra() -> MisuseError:
    return MisuseError("tokens need python-pkcs11: pip install 'edgefleet[token]'")
