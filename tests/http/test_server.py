"""The server on the wire: one answer per request, in order, over connections that are kept."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import anyio
import pytest

from helexa.errors import InvalidRequest
from helexa.http import (
    Ending,
    Request,
    Response,
    Router,
    Server,
    ServerConfig,
    StreamingResponse,
    json_response,
    serving,
)
from helexa.refusals import ModelNotFound, QueueFull
from tests.http.wire import GET, Stuck, ask, connected, echo, post, soon

pytestmark = pytest.mark.anyio


async def test_a_connection_is_kept() -> None:
    async with serving(echo) as server, connected(server) as peer:
        for n in range(3):
            await peer.send(post(b"%d" % n, path=f"/{n}?q"))
            answer = await peer.answer()
            assert answer.status == 200
            assert answer.header("connection") is None
            assert answer.header("date")
            assert answer.body.startswith(b'{"method":"POST","path":"/%d","query":"q"' % n)
        assert server.connections == 1


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_pipelined_requests_are_answered_in_order(size: int) -> None:
    wire = b"".join([post(b"a", path="/1"), GET, post(b"b", path="/2"), GET])
    async with serving(echo) as server, connected(server) as peer:
        for at in range(0, len(wire), size):
            await peer.send(wire[at : at + size])
        paths = [(await peer.answer()).body.split(b",")[1] for _ in range(4)]
        assert paths == [b'"path":"/1"', b'"path":"/"', b'"path":"/2"', b'"path":"/"']


async def test_a_request_pipelined_during_an_answer_is_not_lost() -> None:
    release = anyio.Event()

    async def slow(request: Request) -> Response:
        if request.path == "/slow":
            await release.wait()
        return await echo(request)

    async with serving(slow) as server, connected(server) as peer:
        await peer.send(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        await peer.send(post(b"kept", path="/next"))
        release.set()
        assert b"/slow" in (await peer.answer()).body
        assert b"kept" in (await peer.answer()).body


async def test_n025_request_id() -> None:
    async with serving(echo) as server:
        given = b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: %b\r\n\r\n"
        assert (await ask(server, given % b"abc-1")).header("x-request-id") == "abc-1"
        for bad in (b"", b"two words", b"x" * 129):
            made = (await ask(server, given % bad)).header("x-request-id")
            assert re.fullmatch(r"req_[0-9a-f]{32}", made or "")
        for wire in (GET, b"nonsense\r\n\r\n"):
            made = (await ask(server, wire)).header("x-request-id")
            assert re.fullmatch(r"req_[0-9a-f]{32}", made or "")


async def test_the_id_is_sent_once() -> None:
    async def doubled(_: Request) -> Response:
        return Response(headers={"x-request-id": "theirs", "transfer-encoding": "chunked"})

    async with serving(doubled) as server:
        answer = await ask(server, b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n\r\n")
        assert [value for name, value in answer.headers if name == "x-request-id"] == ["mine"]
        assert answer.header("transfer-encoding") is None


async def test_n023_routes() -> None:
    router = Router()
    router.add("GET", "/health", echo)
    router.add("POST", "/v1/chat/completions", echo)
    async with serving(router) as server, connected(server) as peer:
        await peer.send(b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await peer.answer()
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")
        assert answer.error["message"] == "Unknown request URL: GET /nope"
        for method in ("GET", "OPTIONS"):
            await peer.send(f"{method} /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            answer = await peer.answer()
            assert (answer.status, answer.header("allow")) == (405, "POST")
            assert answer.error["code"] == "method_not_allowed"
        await peer.send(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
        answer = await peer.answer(head_only=True)
        assert answer.status == 200
        assert int(answer.header("content-length") or 0) > 0
        assert (await peer.answer()).status == 404  # nothing of a body came between


async def test_head_of_a_stream_runs_none_of_it() -> None:
    async def forever(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            raise AssertionError
            yield b""

        return StreamingResponse(parts())

    async with serving(forever) as server, connected(server) as peer:
        await peer.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        assert (await peer.answer(head_only=True)).header("transfer-encoding") == "chunked"
        assert (await peer.answer(head_only=True)).status == 200


async def test_http_1_0_is_answered_and_closed() -> None:
    async def parts(_: Request) -> Response:
        async def two() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        return StreamingResponse(two())

    for handler, body in ((parts, b"onetwo"), (echo, None)):
        async with serving(handler) as server, connected(server) as peer:
            await peer.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = await peer.answer()
            assert answer.header("transfer-encoding") is None
            assert answer.header("connection") == "close"
            assert body is None or answer.body == body
            assert await peer.ended()


async def test_close_is_obeyed_and_said() -> None:
    async with serving(echo) as server, connected(server) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await peer.answer()).header("connection") == "close"
        assert await peer.ended()


async def test_continue_is_sent_when_the_body_is_wanted() -> None:
    async with serving(echo) as server, connected(server) as peer:
        await peer.send(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        )
        assert (await peer.answer()).status == 100
        await peer.send(b"abc" + GET)
        assert b'"body":"abc"' in (await peer.answer()).body
        assert (await peer.answer()).status == 200


async def test_continue_is_not_sent_when_it_is_not() -> None:
    """A body that may still come, or not, leaves the connection unusable."""

    async def refuse(_: Request) -> Response:
        raise ModelNotFound("m")

    async with serving(refuse) as server, connected(server) as peer:
        await peer.send(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        )
        answer = await peer.answer()
        assert (answer.status, answer.header("connection")) == (404, "close")
        assert answer.error["model_id"] == "m"
        assert await peer.ended()


async def test_a_body_nobody_read_is_dropped_if_it_is_here() -> None:
    async def ignore(request: Request) -> Response:
        return Response(request.path)

    async with serving(ignore) as server, connected(server) as peer:
        await peer.send(post(b"ignored", path="/1") + post(b"also", path="/2"))
        assert (await peer.answer()).body == b"/1"
        assert (await peer.answer()).body == b"/2"


async def test_errors_become_envelopes(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request) -> Response:
        match request.path:
            case "/ours":
                raise InvalidRequest("no", param="temperature", hint="lower it")
            case "/busy":
                raise QueueFull(7)
            case "/group":
                async with anyio.create_task_group():
                    raise InvalidRequest("inside")
        raise ZeroDivisionError("secret")

    async def at(path: str) -> tuple[int, dict[str, object], str | None]:
        answer = await ask(server, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return answer.status, answer.error, answer.header("retry-after")

    async with serving(fail) as server:
        ours = {"message": "no; lower it", "type": "invalid_request_error"}
        ours |= {"code": "invalid_value", "param": "temperature"}
        assert await at("/ours") == (400, ours, None)
        status, error, retry_after = await at("/busy")
        assert (status, error["type"], retry_after) == (503, "rate_limit_error", "7")
        assert (await at("/group"))[1]["message"] == "inside"
        assert not caplog.records
        internal = {"message": "internal error", "type": "api_error", "code": None, "param": None}
        assert await at("/bug") == (500, internal, None)
        assert "ZeroDivisionError" in caplog.text


async def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cut(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        headers = {"content-length": "9"} if request.path == "/length" else {}
        return StreamingResponse(parts(), headers=headers)

    endings: list[Ending] = []
    async with serving(cut, observe=lambda _, ending: endings.append(ending)) as server:
        for path in ("/chunked", "/length"):
            async with connected(server) as peer:
                await peer.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                await peer.until(b"\r\n\r\n")
                assert await peer.until(b"0\r\n\r\n") in (b"4\r\nhalf\r\n", b"half")
        async with connected(server) as peer:  # no framing says where it ends: only a reset can
            await peer.send(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(anyio.BrokenResourceError):
                while True:
                    await peer.stream.receive()
    assert [ending.outcome for ending in endings] == ["cut"] * 3
    assert caplog.records


@pytest.mark.parametrize("length", ["3", "5"])
async def test_a_wrong_length_is_cut(length: str, caplog: pytest.LogCaptureFixture) -> None:
    async def wrong(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"four"

        return StreamingResponse(parts(), headers={"content-length": length})

    async with serving(wrong) as server, connected(server) as peer:
        await peer.send(GET)
        await peer.until(b"\r\n\r\n")
        assert len(await peer.until(b"\0")) != int(length)
    assert "content-length" in caplog.text


async def test_observers_hear_of_every_request_once() -> None:
    seen: list[tuple[str, str, Ending]] = []
    router = Router()
    router.add("GET", "/models/{id}", echo)
    stuck = Stuck()
    router.add("GET", "/stuck", stuck)

    def observe(request: Request, ending: Ending) -> None:
        seen.append((request.method, request.route, ending))

    async with serving(router, observe=observe) as server:
        await ask(server, b"GET /models/a HTTP/1.1\r\nhost: x\r\n\r\n")
        await ask(server, b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n")
        async with connected(server) as peer:
            await peer.send(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n")
            await soon(stuck.entered)
        await soon(stuck.left)
    told = [(m, route, e.status, e.outcome) for m, route, e in seen]
    assert told == [
        ("GET", "/models/{id}", 200, "done"),
        ("GET", "", 404, "done"),
        ("GET", "/stuck", None, "gone"),
    ]
    assert seen[0][2].sent_bytes > 0
    assert seen[0][2].duration_s >= 0


async def test_what_is_held_is_released_after_the_answer() -> None:
    log: list[str] = []

    class Seat:
        async def __aenter__(self) -> str:
            log.append("taken")
            return "seat"

        async def __aexit__(self, *exc_info: object) -> None:
            log.append("freed")

    async def handler(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            log.append("streaming")
            yield b"x"

        assert await request.hold(Seat()) == "seat"
        return StreamingResponse(parts())

    async with serving(handler) as server:
        await ask(server, GET)
    assert log == ["taken", "streaming", "freed"]


async def test_no_content() -> None:
    async def nothing(_: Request) -> Response:
        return Response(status=204)

    async with serving(nothing) as server, connected(server) as peer:
        await peer.send(GET * 2)
        for _ in range(2):
            answer = await peer.answer()
            assert (answer.status, answer.header("content-length")) == (204, None)


async def test_a_server_can_be_run_by_hand() -> None:
    """As in a notebook: a task of one's own, and plain calls."""
    server = Server(echo, ServerConfig(port=0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await server.ready()
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert (await ask(server, GET)).status == 200
        server.stop()


async def test_repeated_fields_are_sent_as_given() -> None:
    async def cookies(_: Request) -> Response:
        return json_response({}, headers=[("set-cookie", "a"), ("set-cookie", "b")])

    async with serving(cookies) as server:
        answer = await ask(server, GET)
        assert [value for name, value in answer.headers if name == "set-cookie"] == ["a", "b"]


async def test_a_header_cannot_split_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def split(_: Request) -> Response:
        return Response(headers={"x-a": "1\r\n\r\nHTTP/1.1 200 OK"})

    async with serving(split) as server:
        assert (await ask(server, GET)).status == 500
