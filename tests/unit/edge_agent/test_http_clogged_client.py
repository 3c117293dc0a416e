"""How long a client that pipelines has to read an answer that fills its connection."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from edge_agent.adapters.http_connection import Application, Connection, ServerLimits, Service
from edge_agent.adapters.http_parser import Request, Response
from edge_agent.adapters.http_room import BodyRoom

if TYPE_CHECKING:
    from edge_agent.adapters.http_workers import HeavyWork

LIMITS = ServerLimits(head_s=10.0, write_s=30.0)
FIRST_AND_A_BIT = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HT"


class Heavy(Application):
    def is_heavy(self, _: Request) -> bool:
        return True

    def answer(self, _: Request) -> Response:
        return Response()


class Work:
    """Answers when told."""

    def __init__(self) -> None:
        self.on_done: list[Callable[[Response], None]] = []

    def submit(self, _: Request, on_done: Callable[[Response], None]) -> None:
        self.on_done.append(on_done)


class Unread(asyncio.Transport):
    """A connection that is full from the first answer on."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self.protocol, self.is_aborted = protocol, False

    def write(self, _: bytes | bytearray | memoryview) -> None:
        self.protocol.pause_writing()

    def is_closing(self) -> bool:
        return self.is_aborted

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def abort(self) -> None:
        self.is_aborted = True


@pytest.mark.parametrize("sent", [FIRST_AND_A_BIT, FIRST_AND_A_BIT[:-9]])
def test_a_client_that_pipelines_has_the_whole_time_to_read_and_no_more(sent: bytes) -> None:
    async def live() -> tuple[bool, bool]:
        work = Work()
        connection = Connection(
            Service(
                application=Heavy(),
                limits=LIMITS,
                work=cast("HeavyWork", work),
                check_head=lambda *_: None,
                room=BodyRoom(1_000),
            )
        )
        transport = Unread(connection)
        connection.connection_made(transport)
        connection.data_received(sent)
        (on_done,) = work.on_done
        on_done(Response(body=b"x" * 100))
        now = asyncio.get_running_loop().time()
        connection.check_deadline(now + LIMITS.write_s - 1)
        early = transport.is_aborted
        connection.check_deadline(now + LIMITS.write_s + 1)
        return early, transport.is_aborted

    assert asyncio.run(live()) == (False, True)
