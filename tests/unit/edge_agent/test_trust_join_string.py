"""The join string and the messages of enrolment survive their round trip and nothing else."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.errors import ContractError
from edge_agent.contract.join import EnrolGrant, EnrolRequest, JoinTicket, check_host

TICKET = JoinTicket(
    host="fleet.example",
    api_port=8443,
    mqtt_port=8883,
    fleet="fleet-1",
    device_id="cam-7",
    ca_sha256="a" * 64,
    root_sha256="b" * 64,
    secret="s" * 43,
)
GOLDEN_PREFIX = "ef1:eyJhIjo4NDQzLCJjIjoiYWFh"


def test_the_string_of_a_ticket_never_changes() -> None:
    text = TICKET.encode()
    assert text.startswith(GOLDEN_PREFIX)
    assert len(text) == 347
    assert JoinTicket.decode(text) == TICKET


@given(st.integers(1, 65_535), st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1))
def test_a_ticket_comes_back_as_it_went(port: int, name: str) -> None:
    ticket = JoinTicket(
        host="10.0.0.1",
        api_port=port,
        mqtt_port=port,
        fleet=name[:64],
        device_id=f"d{name[:60]}",
        ca_sha256="a" * 64,
        root_sha256="b" * 64,
        secret=name[:64],
    )
    assert JoinTicket.decode(ticket.encode()) == ticket


@given(st.integers(0, 346))
def test_a_string_cut_short_is_never_a_ticket(length: int) -> None:
    with pytest.raises(ContractError):
        JoinTicket.decode(TICKET.encode()[:length])


@given(st.text(max_size=300))
def test_no_text_is_more_than_refused(text: str) -> None:
    with pytest.raises(ContractError):
        JoinTicket.decode(f"ef1:{text}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("h", "evil.example/path"),
        ("h", ""),
        ("a", 0),
        ("m", 65_536),
        ("d", "server"),
        ("c", "A" * 64),
        ("r", "b" * 63),
        ("s", "s" * 129),
        ("f", None),
    ],
)
def test_each_field_is_bounded(field: str, value: object) -> None:
    body = TICKET.encode().removeprefix("ef1:")
    plain = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    changed = base64.urlsafe_b64encode(json.dumps(plain | {field: value}).encode()).decode()
    with pytest.raises(ContractError):
        JoinTicket.decode(f"ef1:{changed}")


def test_request_and_grant_come_back_as_they_went() -> None:
    request = EnrolRequest(secret="s", csr="c", root_sha256="a" * 64)
    assert EnrolRequest.decode(request.encode()) == request
    grant = EnrolGrant(
        device_id="cam-7",
        profile="camera",
        fleet="fleet-1",
        certificate="cert",
        ca="ca",
        root='{"signed": "ä"}',
        mqtt_host="::1",
        mqtt_port=8883,
    )
    assert EnrolGrant.decode(grant.encode()) == grant


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "-x", "x" * 254, "a\n"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ContractError):
        check_host(host)
