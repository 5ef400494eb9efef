"""Models of a hub: listing, fallbacks, what is fetched, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.hub import HubAccess, fetch_model
from helexa.engine.checkpoint.reference import HubId, Offer
from helexa.errors import CheckpointError, DownloadError, PreflightError, UnsupportedModel

MODEL = HubId(None, "org", "name")
COMMIT = "c0ffee" + "0" * 34
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens


def reach(root: Path, endpoint: str, **options: Any) -> HubAccess:
    """Access without waits, and without the certificates that plain HTTP does not need."""
    return HubAccess(root, endpoint, pause=lambda seconds: None, verify=False, **options)


@pytest.fixture
def access(hub: Any, tmp_path: Path) -> HubAccess:
    return reach(tmp_path, hub.endpoint)


def offline(tmp_path: Path) -> HubAccess:
    return reach(tmp_path, NOWHERE, offline=True)


def test_only_what_is_needed_is_fetched_into_the_shared_layout(
    hub: Any, access: HubAccess, tmp_path: Path
) -> None:
    folder = fetch_model(MODEL, "main", access)
    repo = tmp_path / "models--org--name"
    assert folder == repo / "snapshots" / COMMIT
    assert (repo / "refs/main").read_text() == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        name for name in hub.files if name != "README.md"
    )
    for path in folder.iterdir():
        assert path.read_bytes() == hub.files[path.name]
        assert path.is_symlink()
        assert path.resolve().name == hub.etag(path.name)
        assert path.resolve().parent == repo / "blobs"


def test_a_second_load_fetches_nothing(hub: Any, access: HubAccess) -> None:
    first = fetch_model(MODEL, "main", access)
    hub.requests.clear()
    assert fetch_model(MODEL, "main", access) == first
    assert [request[1] for request in hub.requests] == ["/api/models/org/name"]


def test_a_revision_is_asked_for_and_remembered(
    hub: Any, access: HubAccess, tmp_path: Path
) -> None:
    fetch_model(MODEL, "refs/pr/1", access)
    assert hub.requests[0][1] == "/api/models/org/name/revision/refs/pr/1"
    hub.listing_status = 500
    assert fetch_model(MODEL, "refs/pr/1", access).name == COMMIT
    assert fetch_model(MODEL, COMMIT, access).name == COMMIT


@pytest.mark.parametrize("revision", ["../../x", "..", "", "a//b", "/etc", "a\\b"])
def test_a_revision_that_leaves_the_cache_is_refused(access: HubAccess, revision: str) -> None:
    with pytest.raises(PreflightError, match="revision") as caught:
        fetch_model(MODEL, revision, access)
    assert caught.value.kind == "repo_fetch_failed"


@pytest.mark.parametrize("failure", ["unreachable", "404", "500", "not json", "offline"])
def test_e025_the_snapshot_of_an_earlier_fetch_stands_in(
    hub: Any, access: HubAccess, tmp_path: Path, failure: str
) -> None:
    folder = fetch_model(MODEL, "main", access)
    later = {
        "unreachable": reach(tmp_path, NOWHERE),
        "not json": reach(tmp_path, f"{hub.endpoint}/api/models/org/name?"),
        "offline": offline(tmp_path),
    }.get(failure, access)
    hub.listing_status = int(failure) if failure.isdigit() else 200
    assert fetch_model(MODEL, "main", later) == folder


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, "RepoNotFound", "no such model"),
        (401, "", "HF_TOKEN"),
        (403, "GatedRepo", "accept its terms"),
        (404, "RevisionNotFound", "no such revision"),
        (500, "", "answered 500"),
    ],
)
def test_e025_without_a_snapshot_the_reason_is_told(
    hub: Any, access: HubAccess, status: int, code: str, told: str
) -> None:
    hub.listing_status, hub.error_code = status, code
    with pytest.raises(PreflightError, match=told) as caught:
        fetch_model(MODEL, "main", access)
    assert caught.value.kind == "repo_fetch_failed"


@pytest.mark.parametrize(
    "says", [b"[" * 100_000, b"[]", b'{"sha": 3}', b"<html>"], ids=["deep", "list", "sha", "page"]
)
def test_e025_a_listing_that_is_none(hub: Any, access: HubAccess, says: bytes) -> None:
    hub.says = says
    with pytest.raises(PreflightError, match="did not answer with a list of files") as caught:
        fetch_model(MODEL, "main", access)
    assert caught.value.kind == "repo_fetch_failed"
    hub.says = None
    folder = fetch_model(MODEL, "main", access)
    hub.says = says
    assert fetch_model(MODEL, "main", access) == folder


def test_e025_unreachable_or_offline_without_a_snapshot(tmp_path: Path) -> None:
    for access, told in (
        (reach(tmp_path, NOWHERE), "cannot be reached"),
        (offline(tmp_path), "offline"),
    ):
        with pytest.raises(PreflightError, match=told) as caught:
            fetch_model(MODEL, "main", access)
        assert caught.value.kind == "repo_fetch_failed"


def test_e025_broken_links_do_not_count_as_a_snapshot(access: HubAccess, tmp_path: Path) -> None:
    folder = fetch_model(MODEL, "main", access)
    for path in folder.iterdir():
        path.resolve().unlink()
    with pytest.raises(PreflightError, match="no copy of it is in"):
        fetch_model(MODEL, "main", offline(tmp_path))


def test_a_snapshot_without_weights_is_no_model(access: HubAccess, tmp_path: Path) -> None:
    for path in fetch_model(MODEL, "main", access).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(PreflightError, match="a copy without weights") as caught:
        fetch_model(MODEL, "main", offline(tmp_path))
    assert caught.value.kind == "repo_fetch_failed"


def test_a_cache_that_can_only_be_read_serves(
    access: HubAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_model(MODEL, "main", access)

    def refuse(*args: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert fetch_model(MODEL, "v2", access) == folder


def test_a_broken_link_is_fetched_again(hub: Any, access: HubAccess) -> None:
    folder = fetch_model(MODEL, "main", access)
    (folder / "tokenizer.json").resolve().unlink()
    assert fetch_model(MODEL, "main", access) == folder
    assert (folder / "tokenizer.json").read_bytes() == hub.files["tokenizer.json"]


def test_the_token_goes_to_the_hub_and_not_to_the_store(
    hub: Any, access: HubAccess, tmp_path: Path
) -> None:
    fetch_model(MODEL, "main", reach(tmp_path, hub.endpoint, token="secret\n"))
    sent = {(path.startswith("/store/"), token) for _, path, _, token in hub.requests}
    assert sent == {(False, "Bearer secret"), (True, "")}


def test_an_unsupported_model_is_refused_before_its_weights(
    hub: Any, access: HubAccess, config: dict[str, object]
) -> None:
    hub.files["config.json"] = json.dumps(config | {"model_type": "fictional_arch_99"}).encode()
    with pytest.raises(UnsupportedModel, match="fictional_arch_99"):
        fetch_model(MODEL, "main", access)
    assert not any(path.startswith("/store/") for _, path, _, _ in hub.requests)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "a/../../b"]
)
def test_names_that_leave_the_snapshot_are_refused(hub: Any, access: HubAccess, name: str) -> None:
    hub.files[name] = b""
    with pytest.raises(DownloadError, match="leaves the model's folder"):
        fetch_model(MODEL, "main", access)
    assert len(hub.requests) == 1


def test_an_index_that_leaves_the_snapshot_is_refused(hub: Any, access: HubAccess) -> None:
    index = {"weight_map": {"a": "../model-1.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        fetch_model(MODEL, "main", access)


def test_an_index_naming_an_unlisted_shard_is_refused(hub: Any, access: HubAccess) -> None:
    del hub.files["model-2.safetensors"]
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        fetch_model(MODEL, "main", access)


@pytest.mark.parametrize(
    ("files", "error", "told"),
    [
        ({"config.json": b"{}"}, PreflightError, "no weights"),
        ({"model.safetensors": b""}, PreflightError, "no config.json"),
        ({"mmproj-F16.gguf": b""}, PreflightError, "no GGUF file with weights"),
        ({"model_index.json": b"", "m.safetensors": b""}, UnsupportedModel, "image"),
    ],
    ids=["weights", "config", "projector", "diffusers"],
)
def test_repositories_without_a_loadable_model(
    hub: Any, access: HubAccess, files: dict[str, bytes], error: type[Exception], told: str
) -> None:
    hub.files = files
    with pytest.raises(error, match=told):
        fetch_model(MODEL, "main", access)


def test_weights_under_other_names_are_no_model(hub: Any, access: HubAccess) -> None:
    del hub.files["model.safetensors.index.json"]
    with pytest.raises(PreflightError, match="neither") as caught:
        fetch_model(MODEL, "main", access)
    assert caught.value.kind == "empty_repo"


def test_progress_ends_at_the_size_of_each_file(hub: Any, tmp_path: Path) -> None:
    last: dict[str, tuple[int, int | None]] = {}

    def progress(name: str, done: int, total: int | None) -> None:
        last[name] = (done, total)

    fetch_model(MODEL, "main", reach(tmp_path, hub.endpoint, progress=progress))
    assert last == {
        name: (len(data), len(data)) for name, data in hub.files.items() if name != "README.md"
    }


def test_open_checkpoint_reads_the_environment_it_is_given(hub: Any, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": f"{hub.endpoint}/", "HF_HOME": str(tmp_path), "HF_TOKEN": "t"}
    checkpoint = open_checkpoint("org/name", environ=environ)
    assert (checkpoint.id, sorted(checkpoint.names())) == ("org/name", ["a", "b"])
    assert checkpoint.folder is not None
    assert checkpoint.folder.is_relative_to(tmp_path / "hub")
    assert hub.requests[0][3] == "Bearer t"
    again = open_checkpoint("huggingface:org/name", environ={**environ, "HF_HUB_OFFLINE": "1"})
    assert again.id == "huggingface:org/name"
    assert again.tensor("a").shape == (300, 100)


def test_the_token_of_a_login_is_used(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("stored\n")
    assert HubAccess.of({"HF_HOME": str(tmp_path)}).token == "stored"
    assert HubAccess.of({"HF_HOME": str(tmp_path), "HF_TOKEN": "env"}).token == "env"
    assert HubAccess.of({"HF_HOME": str(tmp_path / "none")}, token="given").token == "given"


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_offline_switch(value: str, expected: bool, tmp_path: Path) -> None:
    environ = {"HF_HUB_OFFLINE": value, "HF_HOME": str(tmp_path)}
    assert HubAccess.of(environ).offline is expected


@pytest.mark.parametrize("scheme", ["a", "builtin"])
def test_unknown_schemes_list_the_known(scheme: str) -> None:
    with pytest.raises(PreflightError, match="known: huggingface") as caught:
        open_checkpoint(f"{scheme}:org/name")
    assert caught.value.kind == "unknown_scheme"


def test_e032_a_quant_that_means_no_format_fetches_nothing(hub: Any, access: HubAccess) -> None:
    with pytest.raises(PreflightError, match="q7") as caught:
        fetch_model(MODEL, "main", access, quant="q7")
    assert caught.value.kind == "quant_not_found"
    assert len(hub.requests) == 1  # the list of files


@pytest.mark.parametrize("kind", ["index", "index of another", "one file", "gguf"])
def test_an_offer_can_be_refused_before_weights_are_fetched(
    hub: Any, access: HubAccess, kind: str
) -> None:
    index = json.loads(hub.files["model.safetensors.index.json"])
    expected: int | None = 120_008
    if kind == "gguf":
        hub.files, expected = {"m.gguf": b"weights"}, None
    elif kind == "one file":
        for name in ("model.safetensors.index.json", "model-2.safetensors"):
            del hub.files[name]
        hub.files["model.safetensors"] = hub.files.pop("model-1.safetensors")
        expected = len(hub.files["model.safetensors"])
    else:
        total = expected if kind == "index" else "many"
        expected = expected if kind == "index" else None
        hub.files["model.safetensors.index.json"] = json.dumps(
            index | {"metadata": {"total_size": total}}
        ).encode()
    offers: list[Offer] = []
    sizes: list[int | None] = []

    def judge(offer: Offer) -> None:
        offers.append(offer)
        sizes.append(offer.measure())
        if offer.folder is not None:
            assert (offer.folder / "tokenizer.json").is_file()
        raise UnsupportedModel("not this one")

    with pytest.raises(UnsupportedModel, match="not this one"):
        fetch_model(MODEL, "main", access, judge=judge)
    (offer,) = offers
    assert (offer.model, sizes) == ("org/name", [expected])
    assert not [request for request in hub.requests if request[1].startswith("/store/")]


def test_weights_that_are_quantised_are_not_fetched_to_be_quantised(
    hub: Any, access: HubAccess, config: dict[str, object]
) -> None:
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    hub.files["config.json"] = json.dumps(config | awq).encode()
    with pytest.raises(UnsupportedModel, match=r"quantised already \(awq, 4 bits"):
        fetch_model(MODEL, "main", access, quant="q4_k")
    assert not [request for request in hub.requests if request[1].startswith("/store/")]
    assert fetch_model(MODEL, "main", access).is_dir()
