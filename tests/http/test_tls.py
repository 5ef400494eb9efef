"""TLS by certificate and key."""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream

from helexa.http import Client, ServerConfig, Tls, serving
from helexa.http.faults import BindError, UpstreamUnreachable
from tests.http.wire import GET, Peer, Stuck, connected, echo, post, settle, soon

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def config(authority: trustme.CA, tmp_path: Path) -> ServerConfig:
    cert = authority.issue_cert("127.0.0.1", "localhost")
    cert.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in cert.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    return ServerConfig(tls=Tls(tmp_path / "cert.pem", tmp_path / "key.pem"), header_timeout_s=2)


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_requests(config: ServerConfig, trusting: ssl.SSLContext) -> None:
    async with serving(echo, config) as server, Client(tls=trusting) as client:
        assert server.url.startswith("https://127.0.0.1:")
        for n in range(3):
            body = b"%d" % n * 300_000
            async with client.request("POST", server.url, {}, body) as answer:
                assert answer.status == 200
                assert body in await answer.read(1 << 20)
        assert client.idle == 1


async def test_an_untrusted_certificate_is_refused(config: ServerConfig) -> None:
    async with serving(echo, config) as server, Client() as client:
        with pytest.raises(UpstreamUnreachable):
            async with client.request("GET", server.url):
                pass
        await settle(lambda: server.connections == 0)


async def test_a_client_that_leaves_is_seen(config: ServerConfig, trusting: ssl.SSLContext) -> None:
    stuck = Stuck()
    async with serving(stuck, config) as server:
        stream = await anyio.connect_tcp(
            *("127.0.0.1", server.port), ssl_context=trusting, tls_standard_compatible=False
        )
        await stream.send(GET)
        await soon(stuck.entered)
        await stream.aclose()
        await soon(stuck.left)


async def test_what_is_no_tls_is_dropped(config: ServerConfig, trusting: ssl.SSLContext) -> None:
    async with serving(echo, config) as server:
        async with connected(server) as plain, connected(server) as silent:
            await plain.send(GET)
            assert b"200" not in await plain.until(b"\0")
            assert await silent.ended()  # after header_timeout_s
        async with await TLSStream.wrap(
            await anyio.connect_tcp("127.0.0.1", server.port),
            hostname="127.0.0.1",
            ssl_context=trusting,
            standard_compatible=False,
        ) as stream:
            peer = Peer(stream)
            await peer.send(post(b"x"))
            assert (await peer.answer()).status == 200


async def test_a_missing_certificate_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=r"cannot use the certificate .*cert\.pem"):
        async with serving(echo, ServerConfig(tls=Tls(tmp_path / "cert.pem", tmp_path / "k"))):
            pass
