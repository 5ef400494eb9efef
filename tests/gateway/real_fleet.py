"""What tests of a whole fleet need: real neurons side by side, held still, and listened to."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

import helexa
from tests.gateway.gateway_process import TIMEOUT_S, GatewayProcess
from tests.neuron.daemon_process import TINY, Daemon, children_of, stopped
from tests.waiting import wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
DIALECTS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
ONCE = "[poller]\ninterval_secs = 3600\n"
"""The gateway looks at its neurons at the start, and then only if something happens."""
STORY = "Once upon a time"


@contextmanager
def neurons(folder: Path, start: Callable[[Path], Any], *names: str) -> Iterator[dict[str, Daemon]]:
    """Neurons by name, begun side by side, each with a folder of its own."""
    with ExitStack() as stack:

        def begin(name: str) -> Daemon:
            (folder / name).mkdir()
            context = start(folder / name)
            daemon: Daemon = context.__enter__()
            stack.push(context)
            return daemon

        with ThreadPoolExecutor(len(names)) as pool:
            found = dict(zip(names, pool.map(begin, names), strict=True))
        yield found


def shelf(folder: Path, *names: str) -> str:
    """The setting of a source `lab` in which the built-in model is known as `team/<name>`."""
    tiny = Path(helexa.__file__).parent / "builtin" / "tiny"
    team = folder / "lab" / "team"
    team.mkdir(parents=True)
    for name in names:
        (team / name).symlink_to(tiny, target_is_directory=True)
    return f"[engine.sources.lab]\npath = {json.dumps(str(folder / 'lab'))}\n"


@contextmanager
def held(*daemons: Daemon) -> Iterator[None]:
    """Neurons that answer but compute nothing inside the block: no stream ends meanwhile."""
    with ExitStack() as stack:
        for daemon in daemons:
            stack.enter_context(stopped(daemon.child()))
        yield


def kill(daemon: Daemon) -> None:
    """End a neuron as a power cut would: the daemon and what it has started."""
    children = children_of(daemon.process.pid)
    daemon.process.kill()
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    daemon.process.wait(TIMEOUT_S)


def request(path: str, tokens: int, model: str = TINY, **more: Any) -> dict[str, Any]:
    """A request for a streamed text of so many tokens, as it is said on this path."""
    body: dict[str, Any] = {"model": model, "stream": True, "ignore_eos": True, **more}
    if path == RESPONSES:
        return body | {"input": STORY, "max_output_tokens": tokens}
    body["max_tokens"] = tokens
    if path == COMPLETIONS:
        return body | {"prompt": STORY, "stream_options": {"include_usage": True}}
    if path == CHAT:
        body["stream_options"] = {"include_usage": True}
    return body | {"messages": [{"role": "user", "content": STORY}]}


class Reader:
    """A client that asks for a stream and reads it to its end, in a thread of its own.

    ``events`` are names and data as they came; ``cut`` says that the end was none.
    """

    def __init__(
        self, gw: GatewayProcess | Daemon, path: str, tokens: int, key: str = "", **more: Any
    ) -> None:
        self.path, self.tokens = path, tokens
        self.events: list[tuple[str, Any]] = []
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.cut = False
        self._body = request(path, tokens, **more)
        self._gw, self._key = gw, key
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        asked = {"base_url": self._gw.url, "timeout": TIMEOUT_S, "headers": headers}
        try:
            with (
                httpx.Client(trust_env=False, **asked) as http,
                http.stream("POST", self.path, json=self._body) as answer,
            ):
                self.headers, self.status = answer.headers, answer.status_code
                self._read(answer)
        except httpx.RemoteProtocolError:
            self.cut = True
        except Exception as error:  # raised again by whoever waits for the end
            self._problem = error

    def _read(self, answer: httpx.Response) -> None:
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                self.events.append((name, value if value == "[DONE]" else json.loads(value)))
            elif not line:
                name = ""

    @property
    def begun(self) -> bool:
        """Whether some of the text has come."""
        return self.text != "" or not self._thread.is_alive()

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(said(self.path, data) for _, data in list(self.events))

    def end(self) -> Reader:
        """Wait until there is nothing more to read."""
        self._thread.join(2 * TIMEOUT_S)
        assert not self._thread.is_alive()
        if self._problem is not None:
            raise self._problem
        return self

    @property
    def whole(self) -> bool:
        """Whether all that was asked for came, and a true end after it."""
        self.end()
        last = self.events[-1] if self.events else ("", None)
        ends = {MESSAGES: "message_stop", RESPONSES: "response.completed"}
        ended = last[0] == ends[self.path] if self.path in ends else last == ("", "[DONE]")
        return ended and not self.cut and self.counted == self.tokens

    @property
    def counted(self) -> int:
        """How many tokens the end of the stream speaks of."""
        found = 0
        for _, data in self.events:
            if isinstance(data, dict):
                usage = data.get("usage") or data.get("response", {}).get("usage") or {}
                found = max(found, usage.get("completion_tokens", 0), usage.get("output_tokens", 0))
        return found


def connect(gw: GatewayProcess, path: str, tokens: int, **more: Any) -> socket.socket:
    """A client that has asked, and reads nothing."""
    at, data = httpx.URL(gw.url), json.dumps(request(path, tokens, **more)).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {at.host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    peer = socket.create_connection((at.host, at.port or 80), TIMEOUT_S)
    peer.sendall(head.encode() + data)
    return peer


def said(path: str, data: Any) -> str:
    """The text in one event."""
    if not isinstance(data, dict):
        return ""
    if path == RESPONSES:
        return str(data["delta"]) if data.get("type") == "response.output_text.delta" else ""
    if path == MESSAGES:
        return str(data.get("delta", {}).get("text", ""))
    choices = data.get("choices") or [{}]
    return str(choices[0].get("text") or choices[0].get("delta", {}).get("content") or "")


def wait_for_text(*readers: Reader) -> None:
    """Return once each of them has something to read."""
    wait_until(lambda: all(reader.begun for reader in readers), TIMEOUT_S)


def running(daemon: Daemon, model: str = TINY) -> int:
    """How many requests a neuron answers just now."""
    return int(daemon.load(model).get("in_flight", 0))
