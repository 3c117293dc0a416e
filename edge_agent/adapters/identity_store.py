"""The device's identity on disk: ``identity/identity.json`` beside its PEM files.

Enrolment writes it last, so a directory with an ``identity.json`` holds a whole identity. It names
the pair of key and certificate, and the file of authorities, that count; the other names are free
for the next, so replacing an identity or renewing it touches nothing in use before
``identity.json`` itself is replaced.
"""

import base64
import binascii
import os
from datetime import datetime
from pathlib import Path

from edge_agent.adapters.files import (
    make_directory,
    read_file,
    remove_file,
    told_as_storage_error,
    write_durable,
)
from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.errors import ContractError, MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.topics import check_device_id
from edge_agent.errors import NotEnrolledError, SettingsError
from edge_agent.ports import Identity

IDENTITY_BYTES_MAX = 1_048_576
FILE = "identity.json"
PAIRS = ("device", "device-b")
CAS = ("ca.pem", "ca-b.pem")
PROBLEM_FILE = "renewal.json"
PROBLEM_BYTES_MAX = 4_096


def identity_directory(directory: Path) -> Path:
    """Return where the identity lies below the agent's directory."""
    return directory / "identity"


def is_enrolled(directory: Path) -> bool:
    """Tell whether the directory holds an identity; raises StorageError, as without rights."""
    path = identity_directory(directory) / FILE
    with told_as_storage_error(path, "looking for"):
        return path.exists()


def save_identity(
    identity: Identity, *, ca_pem: bytes, certificate_pem: bytes, key_pem: bytes
) -> None:
    """Write an identity durably into ``identity.directory``; raises StorageError."""
    make_directory(identity.directory)
    write_durable(identity.ca_path, ca_pem)
    write_durable(identity.certificate_path, certificate_pem)
    write_durable(identity.key_path, key_pem)
    save_facts(identity)


def save_facts(identity: Identity) -> None:
    """Write ``identity.json`` anew beside the PEM files it belongs to; raises StorageError."""
    write_durable(
        identity.directory / FILE,
        dump_object(
            {
                "v": CONTRACT_VERSION,
                "device_id": check_device_id(identity.device_id),
                "profile": identity.profile,
                "fleet": identity.fleet,
                "host": identity.host,
                "mqtt_port": identity.mqtt_port,
                "api_port": identity.api_port,
                "root": base64.b64encode(identity.root).decode(),
                **({"pair": identity.pair} if identity.pair != PAIRS[0] else {}),
                **({"ca": identity.ca} if identity.ca != CAS[0] else {}),
                **({"plain": True} if identity.is_plain else {}),
            }
        ),
    )


def other_pair(pair: str) -> str:
    """Return the name that is free while ``pair`` is in use.

    >>> other_pair("device")
    'device-b'
    """
    return PAIRS[1] if pair == PAIRS[0] else PAIRS[0]


def other_ca(ca: str) -> str:
    """Return the name that is free while ``ca`` is in use.

    >>> other_ca("ca.pem")
    'ca-b.pem'
    """
    return CAS[1] if ca == CAS[0] else CAS[0]


def check_ca(ca: str) -> str:
    """Return the name of a file of authorities unchanged; raises MalformedError."""
    if ca not in CAS:
        raise MalformedError(f"identity: ca must be one of {', '.join(CAS)}, got {ca!r}")
    return ca


def check_pair(pair: str) -> str:
    """Return the name of a pair unchanged; raises MalformedError."""
    if pair not in PAIRS:
        raise MalformedError(f"identity: pair must be one of {', '.join(PAIRS)}, got {pair!r}")
    return pair


def save_problem(identity: Identity, problem: str, *, at: datetime) -> None:
    """Keep why renewal does not get on, for `edge-agent status`; forget it when it does."""
    path = identity.directory / PROBLEM_FILE
    if problem:
        write_durable(path, dump_object({"problem": problem, "at": at.isoformat()}))
    else:
        remove_file(path)


def load_problem(identity: Identity) -> str:
    """Read why renewal does not get on; empty when it does, or nothing readable is there."""
    data = read_file(identity.directory / PROBLEM_FILE)
    if data is None:
        return ""
    try:
        value = parse_object(data, what="renewal", limit_bytes=PROBLEM_BYTES_MAX)
        return Fields(value, what="renewal").text("problem")
    except ContractError:
        return ""


def load_identity(directory: Path) -> Identity:
    """Read the identity.

    Raises:
        NotEnrolledError: There is none.
        SettingsError: It is damaged; says which file.
    """
    home = identity_directory(directory)
    data = read_file(home / FILE)
    if data is None:
        raise NotEnrolledError(directory)
    try:
        fields = Fields(
            parse_object(data, what="identity", limit_bytes=IDENTITY_BYTES_MAX), what="identity"
        )
        fields.version(CONTRACT_VERSION)
        identity = Identity(
            device_id=check_device_id(fields.text("device_id")),
            profile=fields.text("profile"),
            fleet=fields.text("fleet"),
            host=fields.text("host"),
            mqtt_port=fields.integer("mqtt_port", low=1, high=65_535),
            api_port=fields.integer("api_port", low=1, high=65_535),
            root=base64.b64decode(fields.text("root", chars_max=IDENTITY_BYTES_MAX), validate=True),
            directory=home,
            pair=check_pair(fields.text("pair", PAIRS[0], chars_max=32)),
            is_plain=fields.flag("plain", default=False),
            ca=check_ca(fields.text("ca", CAS[0], chars_max=32)),
        )
    except (ContractError, binascii.Error) as error:
        raise SettingsError(
            f"{home / FILE} is damaged ({error}); join again with a new join string"
        ) from error
    for path in (identity.ca_path, identity.certificate_path, identity.key_path):
        if not os.access(path, os.R_OK):
            raise SettingsError(f"{path} cannot be read; join again with a new join string")
    return identity
