"""The device's identity on disk: ``identity/identity.json`` beside its PEM files.

Enrolment writes it last, so a directory with an ``identity.json`` holds a whole identity.
"""

import base64
import binascii
import os
from pathlib import Path

from edge_agent.adapters.files import make_directory, read_file, write_durable
from edge_agent.contract import CONTRACT_VERSION
from edge_agent.contract.errors import ContractError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.topics import check_device_id
from edge_agent.errors import NotEnrolledError, SettingsError
from edge_agent.ports import Identity

IDENTITY_BYTES_MAX = 1_048_576
FILE = "identity.json"


def identity_directory(directory: Path) -> Path:
    """Return where the identity lies below the agent's directory."""
    return directory / "identity"


def is_enrolled(directory: Path) -> bool:
    """Tell whether the directory holds an identity."""
    return (identity_directory(directory) / FILE).exists()


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
                **({"plain": True} if identity.is_plain else {}),
            }
        ),
    )


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
            is_plain=fields.flag("plain", default=False),
        )
    except (ContractError, binascii.Error) as error:
        raise SettingsError(
            f"{home / FILE} is damaged ({error}); join again with a new join string"
        ) from error
    for path in (identity.ca_path, identity.certificate_path, identity.key_path):
        if not os.access(path, os.R_OK):
            raise SettingsError(f"{path} cannot be read; join again with a new join string")
    return identity
