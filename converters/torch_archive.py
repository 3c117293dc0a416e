"""Load a checked exported program. Called in the child process of ``guarded.py`` only."""

import contextlib
import io
import logging
import warnings
from typing import Any

import torch

from converters.errors import InvalidRequestError
from converters.pt2_check import clean_program


def read_program(content: bytes) -> Any:
    """Give the ``ExportedProgram`` of a ``.pt2`` file.

    Raises:
        InvalidRequestError: It holds anything but numbers and operators, or PyTorch refuses it.
    """
    cleaned = clean_program(content)
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            return torch.export.load(io.BytesIO(cleaned))
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise InvalidRequestError(f"PyTorch does not read the .pt2 file: {reason}") from error
