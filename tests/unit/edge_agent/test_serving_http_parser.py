from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.http_parser import (
    HttpError,
    HttpLimits,
    Phase,
    Request,
    RequestParser,
    Response,
)

LIMITS = HttpLimits(head_bytes_max=256, headers_max=4, target_bytes_max=40, body_bytes_max=32)
POST = b"POST /v2/models/m/infer?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"


def parse(data: bytes, limits: HttpLimits = LIMITS) -> list[Request]:
    parser = RequestParser(limits)
    parser.feed(data)
    requests = []
    while (request := parser.next_request()) is not None:
        requests.append(request)
    return requests


def test_a_request_is_taken_apart() -> None:
    (request,) = parse(POST)
    assert (request.method, request.path, request.body) == ("POST", "/v2/models/m/infer", b"body")
    assert request.headers == {b"host": b"a", b"content-length": b"4"}
    assert request.is_persistent


def test_pipelined_requests_come_out_in_order() -> None:
    requests = parse(POST + b"\r\n\r\nGET /v2 HTTP/1.1\r\nHost: a\r\n\r\n" + POST)
    assert [r.method for r in requests] == ["POST", "GET", "POST"]


@given(st.data())
def test_where_the_bytes_are_cut_does_not_matter(data: st.DataObject) -> None:
    stream = POST + b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n" + POST
    parser, requests, at = RequestParser(LIMITS), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 40))
        parser.feed(stream[at : at + size])
        at += size
        while (request := parser.next_request()) is not None:
            requests.append(request)
    assert requests == parse(stream)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v2", HTTPStatus.BAD_REQUEST),
        (b"get /v2 HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"GET  /v2 HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"GET http://a/v2 HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"GET /v\x00 HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"GET /v\xc3\xa9 HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"PRI * HTTP/2.0", HTTPStatus.BAD_REQUEST),
        (b"GET /v2 HTTP/2.0", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        (b"GET /v2 HTTP/1.1", HTTPStatus.BAD_REQUEST),  # no Host
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b", HTTPStatus.BAD_REQUEST),
        (b"GET /v2 HTTP/1.1\r\nHost : a", HTTPStatus.BAD_REQUEST),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\n folded", HTTPStatus.BAD_REQUEST),
        (b"GET /v2 HTTP/1.1\r\nHost: a\nX: b", HTTPStatus.BAD_REQUEST),
        (b"GET /v2 HTTP/1.1\r\nHost: a\rb", HTTPStatus.BAD_REQUEST),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nnocolon", HTTPStatus.BAD_REQUEST),
        (b"POST /v2 HTTP/1.1\r\nHost: a", HTTPStatus.LENGTH_REQUIRED),
        (
            b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            HTTPStatus.NOT_IMPLEMENTED,
        ),
        (
            b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            HTTPStatus.NOT_IMPLEMENTED,
        ),
        (
            b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1",
            HTTPStatus.BAD_REQUEST,
        ),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: +1", HTTPStatus.BAD_REQUEST),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -1", HTTPStatus.BAD_REQUEST),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1", HTTPStatus.BAD_REQUEST),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2", HTTPStatus.BAD_REQUEST),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 50, HTTPStatus.BAD_REQUEST),
        (
            b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 200-ok",
            HTTPStatus.EXPECTATION_FAILED,
        ),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(head: bytes, status: HTTPStatus) -> None:
    with pytest.raises(HttpError) as caught:
        parse(head + b"\r\n\r\n")
    assert caught.value.status is status


@pytest.mark.parametrize(
    ("fits", "too_much", "status"),
    [
        (
            b"GET /" + b"a" * 39 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /" + b"a" * 40 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            HTTPStatus.REQUEST_URI_TOO_LONG,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 228 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 229 + b"\r\n\r\n",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\nD: d\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\nD: d\r\nE: e\r\n\r\n",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\n" + b"b" * 32,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + b"b" * 33,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ),
    ],
)
def test_each_bound_holds_at_the_limit_and_one_past_it(
    fits: bytes, too_much: bytes, status: HTTPStatus
) -> None:
    assert len(parse(fits)) == 1
    with pytest.raises(HttpError) as caught:
        parse(too_much)
    assert caught.value.status is status


def test_a_head_without_end_is_refused_before_it_ends() -> None:
    with pytest.raises(HttpError) as caught:
        parse(b"GET / HTTP/1.1\r\nX: " + b"a" * 300)
    assert caught.value.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def test_the_phase_tells_what_is_missing() -> None:
    parser = RequestParser(LIMITS)
    seen = [parser.phase]
    for part in (b"POST / HT", b"TP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nb", b"c"):
        parser.feed(part)
        parser.next_request()
        seen.append(parser.phase)
    assert seen == [Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.IDLE]


def test_a_client_that_waits_for_continue_is_told_once() -> None:
    parser = RequestParser(LIMITS)
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n")
    assert parser.next_request() is None
    assert [parser.take_continue(), parser.take_continue()] == [True, False]
    parser.feed(b"bc")
    assert parser.next_request() is not None


@pytest.mark.parametrize(
    ("request_line", "header", "is_persistent"),
    [
        (b"GET / HTTP/1.1", b"Connection: keep-alive", True),
        (b"GET / HTTP/1.1", b"Connection: Close", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive", False),
    ],
)
def test_who_is_kept(request_line: bytes, header: bytes, *, is_persistent: bool) -> None:
    (request,) = parse(request_line + b"\r\nHost: a\r\n" + header + b"\r\n\r\n")
    assert request.is_persistent is is_persistent


def test_a_response_says_its_length_and_whether_it_is_the_last() -> None:
    encoded = Response(body=b"{}", headers={"Allow": "GET"}).encode(is_last=True)
    assert encoded == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Allow: GET\r\nConnection: close\r\n\r\n{}"
    )


def test_a_repeated_head_means_the_same_again_and_a_changed_one_does_not() -> None:
    other = POST.replace(b"Length: 4", b"Length: 2")
    bodies = [r.body for r in parse(POST + POST + other[:-2] + POST)]
    assert bodies == [b"body", b"body", b"bo", b"body"]
    waiting = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    parser = RequestParser(LIMITS)
    for _ in range(2):
        parser.feed(waiting)
        assert parser.next_request() is None
        assert parser.take_continue()
        parser.feed(b"x")
        assert parser.next_request() is not None
