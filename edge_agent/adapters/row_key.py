"""The key of hashes of sampled values: made on the device, never sent anywhere."""

import stat
from pathlib import Path

from edge_agent.adapters.chance import random_bytes
from edge_agent.adapters.files import read_file, write_durable
from edge_agent.errors import SettingsError, StorageError

KEY_BYTES = 32


def load_row_key(path: Path) -> bytes:
    """Read the key of hashes, 64 hex digits; it is made when there is none.

    Raises:
        SettingsError: No key, open to other accounts, or it cannot be read or made.
    """
    try:
        text = read_file(path)
        if text is None:
            key = random_bytes(KEY_BYTES)
            write_durable(path, key.hex().encode() + b"\n")
            return key
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise SettingsError(f"key_file {path} is open to other accounts; run: chmod 600 {path}")
        key = bytes.fromhex(text.decode().strip())
    except (StorageError, OSError) as error:
        raise SettingsError(f"key_file {path} cannot be read or made: {error}") from error
    except ValueError as error:
        raise SettingsError(
            f"key_file {path} is not hex; make one: openssl rand -hex 32"
        ) from error
    if len(key) != KEY_BYTES:
        raise SettingsError(f"key_file {path} must hold {KEY_BYTES} bytes as hex, not {len(key)}")
    return key
