"""Fetching one file of a hub into the cache: resumed, checked, and never half in place."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from filelock import FileLock, Timeout

from helexa.engine.checkpoint.cache import RepoCache
from helexa.engine.checkpoint.reference import PLAIN_NAME
from helexa.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from helexa.engine.checkpoint.files import Progress

T = TypeVar("T")

ATTEMPTS = 6
"""Tries in a row without a single new byte before a transfer is given up."""

REDIRECTS = 5
PASSING = frozenset({408, 429, 500, 502, 503, 504})
REPORT_EVERY_S = 0.1
LOCK_WAIT_S = 0.5
SHA256 = re.compile(r"[0-9a-f]{64}")


class Cancelled(Exception):
    """Another file's failure, or the user, ended this transfer."""


class Interrupted(Exception):
    """The connection failed; what has arrived is kept and another try may go on from there."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the hub says of a file before it sends it."""

    name: str
    url: str
    etag: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Fetches files of one commit.

    ``cancelled`` ends all transfers, also their waits between tries unless ``pause`` does those.
    """

    client: httpx.Client
    cache: RepoCache
    commit: str
    base_url: str
    progress: Progress | None = None
    pause: Callable[[float], object] | None = None
    cancelled: Event = field(default_factory=Event)

    def fetch(self, name: str) -> Path:
        """The path of ``name`` in the snapshot, fetched if it is not there.

        Processes that want the same contents wait for the one that fetches. Raises DownloadError.
        """
        target = self.cache.snapshot(self.commit) / name
        if target.is_file():
            return target
        try:
            remote = self.retried(name, lambda: self.ask(name))
            blob = self.cache.blob(remote.etag)
            lock = self.cache.lock(remote.etag)
            for folder in (blob.parent, lock.parent):
                folder.mkdir(parents=True, exist_ok=True)
            with self.alone(lock):
                if not blob.is_file():
                    self.receive_all(remote, blob)
                self.cache.link(remote.etag, self.commit, name)
        except OSError as error:
            raise disk_error(name, error, self.cache) from error
        return target

    @contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Hold the lock that every tool sharing the cache takes for this blob."""
        lock = FileLock(path)
        while not lock.is_locked:
            if self.cancelled.is_set():
                raise Cancelled
            with suppress(Timeout):
                lock.acquire(timeout=LOCK_WAIT_S)
        try:
            yield
        finally:
            lock.release()

    def ask(self, name: str) -> RemoteFile:
        """Size and etag from the hub itself, before any redirect to where the bytes are."""
        url = f"{self.base_url}/{quote(name)}"
        place = url
        headers: dict[str, str] = {}
        for _ in range(REDIRECTS):
            response = self.client.head(place, headers={"Accept-Encoding": "identity"})
            check_status(response, name)
            headers.update(response.headers.items())
            target = urljoin(place, response.headers.get("Location", ""))
            if not response.is_redirect or urlsplit(target).netloc != urlsplit(url).netloc:
                break
            place = target
        size = headers.get("x-linked-size")
        if size is None and not response.is_redirect:
            size = response.headers.get("Content-Length")
        tag = headers.get("x-linked-etag") or headers.get("etag") or ""
        tag = tag.removeprefix("W/").strip('"')
        if not PLAIN_NAME.fullmatch(tag):
            tag = hashlib.sha256(f"{self.commit}/{name}/{tag}".encode()).hexdigest()[:40]
        return RemoteFile(name, url, tag, int(size) if size and size.isdigit() else None)

    def receive_all(self, remote: RemoteFile, blob: Path) -> None:
        """Fetch the contents beside ``blob``, check them, and only then move them there."""
        part = blob.with_name(f"{blob.name}.incomplete")
        check_space(remote, part)
        self.retried(remote.name, lambda: self.receive(remote, part), part)
        size = part.stat().st_size
        if remote.size is not None and size != remote.size:
            part.unlink()
            raise damaged(remote.name, f"{size} bytes arrived, {remote.size} were announced")
        if SHA256.fullmatch(remote.etag):
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != remote.etag:
                part.unlink()
                raise damaged(remote.name, f"its SHA-256 is {found}, {remote.etag} was announced")
        part.replace(blob)

    def receive(self, remote: RemoteFile, part: Path) -> None:
        """One request for what is still missing; appends to ``part``."""
        done = part.stat().st_size if part.is_file() else 0
        if remote.size is not None and done >= remote.size > 0:
            if done == remote.size:
                return
            part.unlink()
            done = 0
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with self.client.stream(
            "GET", remote.url, headers=headers, follow_redirects=True
        ) as response:
            if response.status_code == 416:
                part.unlink()
                raise Interrupted("the server refused to continue; starting again")
            check_status(response, remote.name)
            resumed = response.status_code == 206
            with part.open("ab" if resumed else "wb") as file:
                self.write(remote, response, file.write, done if resumed else 0)

    def write(
        self,
        remote: RemoteFile,
        response: httpx.Response,
        write: Callable[[bytes], int],
        done: int,
    ) -> None:
        reported = 0.0
        for chunk in response.iter_bytes():
            if self.cancelled.is_set():
                raise Cancelled
            write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now - reported >= REPORT_EVERY_S:
                self.report(remote, done)
                reported = now
        self.report(remote, done)

    def report(self, remote: RemoteFile, done: int) -> None:
        if self.progress is not None:
            self.progress(remote.name, done, remote.size)

    def retried(self, name: str, call: Callable[[], T], part: Path | None = None) -> T:
        """Call again after passing failures, as long as now and then a byte arrives."""
        import httpx  # slow to import; whoever holds a client has paid for it

        failures, arrived = 0, -1
        while True:
            try:
                return call()
            except (httpx.TransportError, Interrupted) as error:
                size = part.stat().st_size if part is not None and part.is_file() else 0
                failures, arrived = (failures + 1, arrived) if size <= arrived else (1, size)
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"fetching {name!r} failed {failures} times: {reason(error)}",
                        hint="check the connection and load again; what has arrived is kept",
                    ) from error
                if failures > 1:
                    (self.pause or self.cancelled.wait)(min(2.0 ** (failures - 2), 8.0))
                if self.cancelled.is_set():
                    raise Cancelled from error


def reason(error: Exception) -> str:
    """The error's text, its class where it has none."""
    return str(error) or type(error).__name__


def check_status(response: httpx.Response, name: str) -> None:
    """Raise Interrupted for a status that may pass, DownloadError for one that will not."""
    if response.status_code in PASSING:
        raise Interrupted(f"the server answered {response.status_code}")
    if response.is_error:
        raise DownloadError(
            f"fetching {name!r} failed: the server answered {response.status_code}",
            hint="check the model's name and your access to it (HF_TOKEN)",
        )


def check_space(remote: RemoteFile, part: Path) -> None:
    """Raise DownloadError before a transfer that cannot fit on the disk."""
    have = part.stat().st_size if part.is_file() else 0
    free = shutil.disk_usage(part.parent).free
    if remote.size is not None and remote.size - have > free:
        raise DownloadError(
            f"no space left for {remote.name!r}: {remote.size - have} bytes are missing, "
            f"{free} are free in {part.parent}",
            hint="free some, or choose another disk with cache_dir or HF_HOME",
        )


def damaged(name: str, why: str) -> DownloadError:
    return DownloadError(f"fetching {name!r} failed: {why}", hint="load again to fetch it anew")


def disk_error(name: str, error: OSError, cache: RepoCache) -> DownloadError:
    """The error for what the file system refused."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        what = f"no space left for {name!r} in {cache.root}"
    else:
        what = f"cannot write {name!r} to {cache.root}: {error.strerror or error}"
    return DownloadError(what, hint="free some, or choose another disk with cache_dir or HF_HOME")
