"""Sockets that strangers open and leave: a real uvicorn with the app's connections, and what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from tests.waiting import PATIENCE_S
from trainer.app import connections
from trainer.app.connections import Connection

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once on /early, else when the whole body has come."""
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def visited(scenario: Callable[[Callable[[], Awaitable[Stream]]], Awaitable[None]]) -> None:
    """Run a server, and what opens connections to it."""

    async def run() -> None:
        config = uvicorn.Config(answer, http=Connection, port=0, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        served = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        writers: list[asyncio.StreamWriter] = []

        async def connect() -> Stream:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            return reader, writer

        try:
            async with asyncio.timeout(PATIENCE_S):
                await scenario(connect)
        finally:
            for writer in writers:
                writer.close()
            server.should_exit = True
            await served

    asyncio.run(run())


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait for the end of a connection on which nothing is answered."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def is_answered(stream: Stream, request: bytes = GET) -> bool:
    reader, writer = stream
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200") and await reader.readexactly(2) == b"ok"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET[:-2]])
def test_a_connection_that_sends_no_whole_head_is_closed_the_first_time_and_after_an_answer(monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def scenario(connect: Callable[[], Awaitable[Stream]]) -> None:
        new, used = await connect(), await connect()
        assert await is_answered(used)
        for _, writer in (new, used):
            writer.write(sent)
        assert await is_closed(new[0])
        assert await is_closed(used[0])

    visited(scenario)


def test_a_head_that_drips_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def scenario(connect: Callable[[], Awaitable[Stream]]) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert closed.result()

    visited(scenario)


def test_a_request_that_takes_longer_is_answered_and_the_next_one_too(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.5)

    async def scenario(connect: Callable[[], Awaitable[Stream]]) -> None:
        for path in (b"/", b"/early"):  # what is refused at once is still read to its end
            reader, writer = stream = await connect()
            writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n")
            for _ in range(10):
                await asyncio.sleep(0.08)
                writer.write(b"x")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            assert await is_answered(stream)

    visited(scenario)


def test_a_body_that_stops_after_its_answer_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def scenario(connect: Callable[[], Awaitable[Stream]]) -> None:
        reader, writer = stream = await connect()
        assert await is_answered(stream, b"POST /early HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n")
        writer.write(b"x")
        assert await is_closed(reader)

    visited(scenario)


def test_where_too_many_are_open_the_one_that_waited_longest_goes(monkeypatch):
    monkeypatch.setattr(connections, "MAX_OPEN", 5)

    async def scenario(connect: Callable[[], Awaitable[Stream]]) -> None:
        _, writer = busy = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\n")
        idle = [await connect() for _ in range(4)]
        for stream in (*idle, idle[0]):  # the first has waited the shortest in the end
            assert await is_answered(stream)
        others = [await connect() for _ in range(3)]
        for gone in idle[1:]:
            assert await is_closed(gone[0])
        for stream in (idle[0], *others):
            assert await is_answered(stream)
        assert await is_answered(busy, b"x")

    visited(scenario)


def test_a_burst_beyond_the_limit_leaves_room_for_who_asks(monkeypatch):
    monkeypatch.setattr(connections, "MAX_OPEN", 20)

    async def scenario(connect: Callable[[], Awaitable[Stream]]) -> None:
        idle = await asyncio.gather(*(connect() for _ in range(100)))
        assert await is_answered(await connect())
        ends = [asyncio.create_task(is_closed(reader)) for reader, _ in idle]
        while sum(end.done() for end in ends) < 81:
            await asyncio.wait([end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED)
        assert await is_answered(await connect())
        for end in ends:
            end.cancel()

    visited(scenario)


@pytest.mark.parametrize(("files", "most"), [(1024, 250), (100_000, 250), (256, 64), (2, 1), (-1, 250)])
def test_connections_are_few_beside_the_files_that_may_be_open(monkeypatch, files, most):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda which: (files, files))
    assert connections.max_open() == most
