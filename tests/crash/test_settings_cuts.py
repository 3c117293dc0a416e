"""The power goes while somebody saves ``agent.toml`` in place: the agent names the file, or starts.

The agent only reads it, so what a cut leaves is the editor's doing: any length of the new text,
zeros where blocks were not written, or nothing. No such file may be taken for other settings than
the ones written, and none may end in anything but words about the file.
"""

from pathlib import Path

import pytest

from edge_agent.errors import SettingsError
from edge_agent.settings import FILE, AgentSettings, find_settings

WRITTEN = b"""http_port = 8123
log_level = "warning"
window_s = 30.0
# the line's own name: F\xc3\xb6rderband
"""
VALUES = {"http_port": 8123, "log_level": "warning", "window_s": 30.0}
EVERYTHING = [
    *(WRITTEN[:size] for size in range(len(WRITTEN) + 1)),
    *(WRITTEN[:size] + bytes(len(WRITTEN) - size) for size in range(len(WRITTEN))),
    *(bytes(size) + WRITTEN[size:] for size in range(1, len(WRITTEN))),
]


def test_a_settings_file_cut_short_is_refused_by_name_or_read_as_it_was_written(
    tmp_path: Path,
) -> None:
    default, refused, read = AgentSettings(), list[str](), 0
    for data in EVERYTHING:
        (tmp_path / FILE).write_bytes(data)
        try:
            settings = find_settings(tmp_path, environment={}).settings
        except SettingsError as error:
            refused.append(str(error))
            continue
        read += 1
        for name, value in VALUES.items():
            if name in ("http_port", "window_s"):  # a number may have lost its last digits
                written = str(value)
                known = {float(written[:n]) for n in range(1, len(written) + 1)}
                assert getattr(settings, name) in {*known, getattr(default, name)}
            else:
                assert getattr(settings, name) in (value, getattr(default, name))
    assert len(refused) > 200
    assert all(any(word in words for word in (FILE, *VALUES)) for words in refused)
    assert read > 20


def test_a_settings_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_bytes(WRITTEN)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(SettingsError, match=rf"{FILE} cannot be read: Input/output error"):
        find_settings(tmp_path, environment={})
