"""The examples of docs/serving.md answer what the page says."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.contract.schema import Feature
from tests.support.serving import build_classifier
from tests.support.serving_http import serving

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
EXAMPLE = re.compile(r"^\$ (curl .*)\n(.*)$", re.MULTILINE)
FIELDS = (
    Feature(name="heat", low=-40, high=125, unit="degC"),
    Feature(name="hum", low=0, high=100, unit="%"),
    Feature(name="door", dtype="int64", low=0, high=1),
)


def rounded(text: str) -> object:
    """Floating-point kernels differ in the last digits."""
    return json.loads(text, parse_float=lambda digits: round(float(digits), 4))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_page_are_true() -> None:
    examples = EXAMPLE.findall(PAGE.read_text())
    assert len(examples) >= 7
    with serving(build_classifier(features=FIELDS), takes_labels=True) as world:
        for command, told in examples:
            words = shlex.split(command.replace("127.0.0.1:8090", f"127.0.0.1:{world.port}"))
            done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
            assert rounded(done.stdout) == rounded(told), command
