"""A directory of an agent that has joined, without a server."""

from pathlib import Path

from edge_agent.adapters.identity_store import identity_directory, save_identity
from edge_agent.ports import Identity


def enrolled_device(directory: Path, *, mqtt_port: int = 1, api_port: int = 1) -> Path:
    identity = Identity(
        device_id="cam-7",
        profile="camera",
        fleet="fleet-1",
        host="127.0.0.1",
        mqtt_port=mqtt_port,
        api_port=api_port,
        root=b"{}",
        directory=identity_directory(directory),
    )
    save_identity(identity, ca_pem=b"ca", certificate_pem=b"cert", key_pem=b"key")
    return directory
