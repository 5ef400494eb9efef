"""Models of a hub: what a repository holds, what of it is wanted, and a local folder with that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import TYPE_CHECKING
from urllib.parse import quote

from helexa.engine.checkpoint.cache import RepoCache, cache_root, files_in, home
from helexa.engine.checkpoint.files import CONFIG, Progress
from helexa.engine.checkpoint.formats import (
    check_format,
    check_path,
    choose_gguf,
    dense_files,
    detect_format,
    small_files,
)
from helexa.engine.checkpoint.gguf_file import parts_of
from helexa.engine.checkpoint.gguf_folder import TOKENIZER, original_name
from helexa.engine.checkpoint.reference import PLAIN_NAME, HubId, Offer
from helexa.engine.checkpoint.table import INDEX, read_index
from helexa.engine.checkpoint.transfer import Transfer, reason
from helexa.engine.config import ModelConfig
from helexa.engine.quant.names import format_of
from helexa.engine.quantization_config import refuse_quant
from helexa.errors import DownloadError, PreflightError

if TYPE_CHECKING:
    from pathlib import Path
    from ssl import SSLContext

    import httpx

ENDPOINT = "https://huggingface.co"
PARALLEL_FILES = 4
CONNECT_S = 10.0
ANSWER_S = 30.0
ON = frozenset({"1", "true", "yes", "on"})
Judge = Callable[[Offer], None]


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the hub is reached.

    ``pause`` waits, in seconds, between tries of a transfer, in place of a wait that failures and
    interrupts end; ``verify`` is whether, or how, servers must prove who they are. ``cancelled``,
    set from another thread, ends a fetch with Cancelled.
    """

    root: Path
    endpoint: str = ENDPOINT
    token: str | None = None
    offline: bool = False
    progress: Progress | None = None
    pause: Callable[[float], object] | None = None
    verify: bool | SSLContext = True
    cancelled: Event = field(default_factory=Event)

    @classmethod
    def of(
        cls,
        environ: Mapping[str, str],
        *,
        cache_dir: str | Path | None = None,
        offline: bool = False,
        token: str | None = None,
        progress: Progress | None = None,
    ) -> HubAccess:
        """Arguments first, then the environment, then what `hf auth login` stored."""
        return cls(
            root=cache_root(cache_dir, environ),
            endpoint=(environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/"),
            token=token or environ.get("HF_TOKEN") or stored_token(environ),
            offline=offline or told_offline(environ),
            progress=progress,
        )

    def client(self) -> httpx.Client:
        """A client that carries the token to the hub, and to no other host."""
        import httpx  # slow to import, and most loads need no hub

        headers = {"User-Agent": "helexa"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token.strip()}"
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        return httpx.Client(headers=headers, timeout=timeout, verify=self.verify)


def told_offline(environ: Mapping[str, str]) -> bool:
    """Whether the environment says to leave the hub alone."""
    return environ.get("HF_HUB_OFFLINE", "").strip().lower() in ON


def stored_token(environ: Mapping[str, str]) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return (home(environ) / "token").read_text("utf-8").strip() or None
    return None


@dataclass(frozen=True, slots=True)
class Listing:
    """A commit of a repository and the files in it."""

    commit: str
    files: tuple[str, ...]


class ListingFailed(Exception):
    """The hub did not say what a repository holds; the text says why, ``hint`` what may help."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


def left_alone() -> ListingFailed:
    """The hub is not to be asked."""
    return ListingFailed("offline", "go online once to fetch it, or give another cache_dir")


def fetch_model(
    model: HubId,
    revision: str,
    access: HubAccess,
    listing: Listing | None = None,
    *,
    quant: str | None = None,
    judge: Judge | None = None,
) -> Path:
    """A folder with everything a loader needs of ``model`` at ``revision``, or its GGUF file.

    ``quant`` chooses among GGUF files, where a repository has nothing else; of other weights it
    must be the name of a format. ``judge`` may refuse by an error before any weight is fetched.
    ``listing`` is what the hub has just said of it; without, it is asked. Where there is no hub to
    ask, it is the snapshot of an earlier fetch. The config is read before any weight is fetched.
    Raises PreflightError (`repo_fetch_failed`, `empty_repo`, `quant_not_found`), DownloadError,
    UnsupportedModel or CheckpointError.
    """
    cache = RepoCache(access.root, model.org, model.name)
    cache.ref(revision)
    if access.offline:
        return local_copy(model, revision, cache, left_alone(), quant)
    with access.client() as client:
        try:
            listing = listing or list_repo(client, access.endpoint, model, revision)
        except ListingFailed as failed:
            return local_copy(model, revision, cache, failed, quant)
        check_format(str(model), listing.files)
        base = f"{access.endpoint}/{model.repo}/resolve/{listing.commit}"
        transfer = Transfer(
            client,
            cache,
            listing.commit,
            base,
            serialised(access.progress),
            access.pause,
            access.cancelled,
        )
        chosen = None
        if detect_format(listing.files) == "gguf":
            chosen = choose_gguf(listing.files, quant)
            if judge is not None:
                judge(Offer(str(model), None))
            fetch_gguf(transfer, chosen, listing.files)
            if TOKENIZER not in listing.files:
                fetch_original_tokenizer(transfer, model, access)
        else:
            format_of(quant)  # a name that means no format is told before anything is fetched
            fetch_files(transfer, model, listing.files, quant, judge)
    with suppress(OSError):  # a cache that can only be read serves as well
        cache.write_ref(revision, listing.commit)
    folder = cache.snapshot(listing.commit)
    return folder / chosen if chosen else folder


def local_copy(
    model: HubId, revision: str, cache: RepoCache, failed: ListingFailed, quant: str | None
) -> Path:
    """What an earlier fetch has left, or the error that the hub's failure amounts to."""
    folder = cache.local_snapshot(revision)
    files = tuple(files_in(folder)) if folder else ()
    if folder is None or detect_format(files) == "empty":
        copy = "only a copy without weights is" if folder else "no copy of it is"
        raise PreflightError(
            "repo_fetch_failed",
            f"cannot fetch {str(model)!r} (revision {revision}): {failed}; {copy} in {cache.root}",
            hint=failed.hint,
        ) from failed
    check_format(str(model), files)
    return folder / choose_gguf(files, quant) if detect_format(files) == "gguf" else folder


def list_repo(client: httpx.Client, endpoint: str, model: HubId, revision: str) -> Listing:
    """Ask the hub; raises ListingFailed."""
    import httpx

    url = f"{endpoint}/api/models/{model.repo}"
    if revision != "main":
        url += f"/revision/{quote(revision, safe='')}"
    try:
        response = client.get(url, follow_redirects=True)
        if response.is_error:
            raise refused(response, f"{endpoint}/{model.repo}")
        return read_listing(response.json())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = f"{endpoint} cannot be reached ({reason(error)})"
        raise ListingFailed(why, "check the connection and HF_ENDPOINT") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{url} did not answer with a list of files"
        raise ListingFailed(why, "check HF_ENDPOINT") from error


def read_listing(answer: dict[str, object]) -> Listing:
    commit, siblings = answer["sha"], answer["siblings"]
    if not isinstance(commit, str) or not PLAIN_NAME.fullmatch(commit):
        raise ValueError("no commit")
    if not isinstance(siblings, list):
        raise ValueError("no files")
    return Listing(commit, tuple(str(sibling["rfilename"]) for sibling in siblings))


def refused(response: httpx.Response, page: str) -> ListingFailed:
    """Why the hub answers with an error, in words."""
    code = response.headers.get("X-Error-Code", "")
    status = response.status_code
    if code == "GatedRepo" or (status == 403 and not code):
        return ListingFailed("access is gated", f"accept its terms at {page} and set HF_TOKEN")
    if code == "RevisionNotFound":
        return ListingFailed("it has no such revision", "check the revision")
    if status in (401, 404):
        why = "there is no such model, or it is private"
        return ListingFailed(why, "check its name; for a private one set HF_TOKEN")
    return ListingFailed(f"the hub answered {status}", "try again later")


def fetch_files(
    transfer: Transfer,
    model: HubId,
    files: Sequence[str],
    quant: str | None = None,
    judge: Judge | None = None,
) -> None:
    """Fetch the config and judge it, then the other small files, then the weights."""
    for file in files:
        check_path(file)
    if CONFIG not in files:
        raise PreflightError(
            "empty_repo", f"{str(model)!r} has no {CONFIG}", hint="choose another model"
        )
    config = ModelConfig.from_file(transfer.fetch(CONFIG), str(model))
    refuse_quant(str(model), config.quantization, quant)
    fetch_all(transfer, small_files(files))
    folder = transfer.cache.snapshot(transfer.commit)
    shards = shards_of(folder / INDEX, files) if INDEX in files else []
    weights = dense_files(files, shards)
    if not weights:
        raise PreflightError(
            "empty_repo",
            f"{str(model)!r} has neither model.safetensors nor an index of shards",
            hint="choose another model",
        )
    if judge is not None:
        judge(Offer(str(model), folder, lambda: weight_bytes(transfer, folder, weights)))
    fetch_all(transfer, weights)


def weight_bytes(transfer: Transfer, folder: Path, weights: Sequence[str]) -> int | None:
    """The size of all weights, as their index says it, or of a single file the hub."""
    if len(weights) == 1:
        return transfer.retried(weights[0], lambda: transfer.ask(weights[0])).size
    with suppress(ValueError, OSError, AttributeError):
        size = json.loads((folder / INDEX).read_bytes()).get("metadata", {}).get("total_size")
        return size if isinstance(size, int) else None
    return None


def fetch_gguf(transfer: Transfer, chosen: str, files: Sequence[str]) -> None:
    """Fetch a GGUF file, all parts of a split one, and the small files beside it."""
    parts = parts_of(chosen)
    for file in (*files, *parts):
        check_path(file)
    missing = sorted(set(parts) - set(files))
    if missing:
        raise DownloadError(
            f"the repository lacks {missing[0]}, a part of {chosen}", hint="choose another file"
        )
    fetch_all(transfer, small_files(files))
    fetch_all(transfer, parts)


def fetch_original_tokenizer(transfer: Transfer, model: HubId, access: HubAccess) -> None:
    """Fetch tokenizer.json of the repository that a `-GGUF` one was made from, if there is one.

    Where that fails, the GGUF file's own metadata serve.
    """
    name = original_name(model.name)
    if name is None:
        return
    original = HubId(model.scheme, model.org, name)
    cache = RepoCache(access.root, original.org, original.name)
    folder = cache.local_snapshot("main")
    if folder is not None and (folder / TOKENIZER).is_file():
        return
    with suppress(ListingFailed, DownloadError, OSError):
        listing = list_repo(transfer.client, access.endpoint, original, "main")
        if TOKENIZER in listing.files:
            base = f"{access.endpoint}/{original.repo}/resolve/{listing.commit}"
            replace(transfer, cache=cache, commit=listing.commit, base_url=base).fetch(TOKENIZER)
            cache.write_ref("main", listing.commit)


def shards_of(index: Path, files: Sequence[str]) -> list[str]:
    shards = sorted(set(read_index(index, exists=files.__contains__).values()))
    for shard in shards:
        check_path(shard)
    return shards


def fetch_all(transfer: Transfer, names: Sequence[str]) -> None:
    """Fetch several files at once; the first failure, or an interrupt, ends the others."""
    pool = ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="helexa-fetch")
    try:
        futures = [pool.submit(transfer.fetch, name) for name in names]
        for future in as_completed(futures):
            future.result()
    except BaseException:
        transfer.cancelled.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def serialised(progress: Progress | None) -> Progress | None:
    """``progress`` for callers on several threads, one call at a time."""
    if progress is None:
        return None
    lock = Lock()

    def report(name: str, done: int, total: int | None) -> None:
        with lock:
            progress(name, done, total)

    return report
