"""Small models on disk, and a hub on this machine that can be told to fail."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

COMMIT = "c0ffee" + "0" * 34
CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def safetensors(tensors: Tensors, **changes: object) -> bytes:
    """A safetensors file of zeros; ``changes`` replace entries of its header."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + prod(shape) * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header | changes).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(end)


@pytest.fixture
def pack() -> Callable[..., bytes]:
    return safetensors


@pytest.fixture
def config() -> dict[str, object]:
    return dict(CONFIG)


@pytest.fixture
def model_files(config: dict[str, object]) -> dict[str, bytes]:
    """The files of a model in two shards."""
    return {
        "README.md": b"not fetched",
        "config.json": json.dumps(config).encode(),
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        ).encode(),
        "model-1.safetensors": safetensors({"a": ("F32", (300, 100))}),
        "model-2.safetensors": safetensors({"b": ("BF16", (4,))}),
    }


@pytest.fixture
def write() -> Callable[[Path, dict[str, bytes]], Path]:
    def write_files(folder: Path, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    return write_files


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file or folder one that may not be read; permissions would not stop root."""

    def forbid_path(path: Path) -> None:
        def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
            def ask(asked: Any = ".", *args: Any, **kwargs: Any) -> Any:
                if not isinstance(asked, int) and Path(asked) == path:
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return real(asked, *args, **kwargs)

            return ask

        monkeypatch.setattr(io, "open", refusing(io.open))
        monkeypatch.setattr(os, "listdir", refusing(os.listdir))
        monkeypatch.setattr(os, "scandir", refusing(os.scandir))

    return forbid_path


@dataclass
class FakeHub:
    """The hub's listing and file endpoints; `.safetensors` are redirected to another origin.

    ``cuts`` holds, per file, after how many bytes each next answer breaks off; ``statuses`` what
    each next request is answered instead; ``shorten`` what is served in place of a file's bytes.
    """

    files: dict[str, bytes]
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    shorten: dict[str, bytes] = field(default_factory=dict)
    listing_status: int = 200
    says: bytes | None = None
    """What it answers in place of a list of files."""
    error_code: str = ""
    gate: threading.Event | None = None
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    endpoint: str = ""
    store: str = ""

    def asked(self, name: str, method: str = "GET") -> list[str]:
        """The ranges asked for, one per request of a file's bytes."""
        return [r[2] for r in self.requests if r[0] == method and r[1] == f"/store/{name}"]

    def asked_for_sizes(self) -> int:
        return sum(request[0] == "HEAD" for request in self.requests)

    def etag(self, name: str) -> str:
        data = self.files[name]
        kind = hashlib.sha256 if name.endswith(".safetensors") else hashlib.sha1
        return kind(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(self.path)
        given = self.headers.get("Range", ""), self.headers.get("Authorization", "")
        with hub.changed:
            hub.requests.append((self.command, path, *given))
            hub.changed.notify_all()
        name = path.rpartition(f"/resolve/{COMMIT}/")[2]
        if path.startswith("/api/models/org/name"):
            self.listing()
        elif path.startswith("/store/"):
            self.bytes_of(path.removeprefix("/store/"))
        elif name not in hub.files:
            self.answer(404, b"no such file")
        elif name.endswith(".safetensors"):
            linked = {
                "Location": f"{hub.store}/store/{name}",
                "X-Linked-ETag": f'"{hub.etag(name)}"',
                "X-Linked-Size": str(len(hub.files[name])),
            }
            self.answer(302, b"moved", **linked)
        else:
            self.answer(200, hub.files[name], ETag=f'W/"{hub.etag(name)}"')

    def listing(self) -> None:
        hub = self.hub
        listed = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}
        code = {"X-Error-Code": hub.error_code} if hub.error_code else {}
        said = json.dumps(listed).encode() if hub.says is None else hub.says
        self.answer(hub.listing_status, said, **code)

    def bytes_of(self, name: str) -> None:
        hub = self.hub
        if hub.gate is not None:
            hub.gate.wait(30)
        if hub.statuses.get(name):
            return self.answer(hub.statuses[name].pop(0), b"")
        data = hub.shorten.get(name, hub.files[name])
        given = self.headers.get("Range", "")
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given else 0
        ranged = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if given else {}
        cut = hub.cuts[name].pop(0) if hub.cuts.get(name) else None
        self.answer(206 if given else 200, data[start:], cut, **ranged)

    def answer(self, status: int, body: bytes, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = cut is not None


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """Serve the hub on a free port; yields the origin."""
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(model_files: dict[str, bytes]) -> Iterator[FakeHub]:
    fake = FakeHub(model_files)
    with ExitStack() as servers:
        fake.endpoint = servers.enter_context(serving(fake))
        fake.store = servers.enter_context(serving(fake))
        yield fake
