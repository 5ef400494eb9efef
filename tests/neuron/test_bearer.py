"""Who may talk to a daemon that asks for a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helexa.neuron.bearer import may_enter, required_bearer
from helexa.neuron.config import NeuronConfig
from helexa.neuron.config_layers import check_config, load_config
from tests.neuron.daemons import Daemon, started


@pytest.mark.parametrize(
    ("authorization", "bearer", "enters"),
    [
        (None, None, True),
        ("Bearer anything", None, True),
        (None, "s3cret", False),
        ("", "s3cret", False),
        ("Bearer s3cret", "s3cret", True),
        ("bearer  s3cret ", "s3cret", True),
        ("Bearer s3cre", "s3cret", False),
        ("Bearer s3crets", "s3cret", False),
        ("Basic s3cret", "s3cret", False),
        ("s3cret", "s3cret", False),
        ("Bearer é", "s3cret", False),
        ("Bearer é", "é", True),
    ],
)
def test_n125_bearer(authorization: str | None, bearer: str | None, enters: bool) -> None:
    assert may_enter(authorization, bearer) is enters


def test_n125_a_variable_that_is_not_set_asks_for_nothing() -> None:
    environ = {"TOKEN": "t", "EMPTY": ""}
    found = [required_bearer(name, environ) for name in ("TOKEN", "EMPTY", "MISSING", "", None)]
    assert found == ["t", None, None, None, None]


@pytest.fixture(scope="module")
def at() -> Iterator[Daemon]:
    config = NeuronConfig(port=0, auth_env="TOKEN", harnesses=())
    with started(config, {"TOKEN": "s3cret"}) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/version", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/models", 200),
        ("POST", "/v1/chat/completions", 415),
        ("POST", "/models/load", 415),
        ("POST", "/tokenize", 415),
        ("GET", "/nope", 404),
        ("PUT", "/health", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
    ],
)
def test_n125_no_request_is_answered_without_the_bearer(
    at: Daemon, method: str, path: str, known: int
) -> None:
    """Not even with what there is, or which methods it takes."""
    for given in ({}, {"authorization": "Bearer wrong"}):
        refused = at.http.request(method, path, headers=given)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "allow" not in refused.headers
        if method != "HEAD":
            assert refused.json()["error"]["code"] == "invalid_api_key"
    enters = at.http.request(method, path, headers={"authorization": "Bearer s3cret"})
    assert enters.status_code == known
    assert "www-authenticate" not in enters.headers


def test_n125_a_refused_inference_request_has_its_line_and_its_route(at: Daemon) -> None:
    answer = at.http.post("/v1/completions", json={}, headers={"x-request-id": "stranger"})
    assert answer.status_code == 401
    text, fields = at.end("stranger")
    assert (text, fields["status"], fields["code"]) == ("request rejected", 401, "invalid_api_key")
    labels = {"route": "/v1/completions", "method": "POST", "status": "401"}
    with_bearer = at.http.get("/metrics", headers={"authorization": "Bearer s3cret"}).text
    told = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    assert f"neuron_http_requests_total{{{told}}} 1.0" in with_bearer


@pytest.mark.parametrize("environ", [{}, {"LAB_TOKEN": ""}], ids=["not set", "empty"])
def test_a_secret_that_is_not_there_is_warned_of(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('host = "127.0.0.1"\nauth_env = "LAB_TOKEN"\n')
    (warning,) = load_config(file, environ=environ).warnings
    assert "LAB_TOKEN" in warning and "anyone may come in" in warning
    checked = check_config(file, environ=environ)
    assert (checked.stdout, checked.exit_status) == ("ok\n", 0)
    assert checked.stderr == f"warning: {warning}\n"
    assert load_config(file, environ={"LAB_TOKEN": "t"}).warnings == ()
