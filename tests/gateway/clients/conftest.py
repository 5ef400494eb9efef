"""A neuron and a gateway with keys, both real processes, for the clients of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.gateway.clients.asked import GOOD, OTHER, ROLLING, SMALL, SPENT, THIRD
from tests.gateway.gateway_process import FAST_POLLS, GatewayProcess, gateway
from tests.neuron.daemon_process import TINY, Daemon, started

LOADED = f'default_models = [{{ model_id = "{TINY}" }}]\n'
SEATS = "[engine.admission]\nmax_in_flight = 4\nmax_queue_depth = 0\n"
KEYS = f"""
[entitlements]
require_auth = true
ledger = "memory"
[[entitlements.keys]]
key = "{GOOD}"
account_id = "good"
[[entitlements.keys]]
key = "{OTHER}"
account_id = "other"
[[entitlements.keys]]
key = "{THIRD}"
account_id = "third"
[[entitlements.keys]]
key = "{SPENT}"
account_id = "spent"
hard_cap = 10
[[entitlements.keys]]
key = "{ROLLING}"
account_id = "rolling"
hard_cap = 10
window = {{ kind = "rolling", seconds = 3600 }}
"""


@pytest.fixture(scope="session")
def neuron(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with started(tmp_path_factory.mktemp("neuron"), LOADED + SEATS) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def gw(neuron: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Asks for keys; the built-in model has a second name."""
    folder = tmp_path_factory.mktemp("gateway")
    catalogue = folder / "models.toml"
    catalogue.write_text(f'[aliases]\n{SMALL} = "{TINY}"\n')
    top = f'models_config = "{catalogue}"\n'
    with gateway(folder, {"box": neuron.url}, top + FAST_POLLS + KEYS) as process:
        process.wait_for_nodes(1)
        yield process


@pytest.fixture(scope="module")
def ours(gw: GatewayProcess) -> Iterator[openai.OpenAI]:
    """OpenAI's client, which tries once."""
    with openai.OpenAI(base_url=f"{gw.url}/v1", api_key=GOOD, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def theirs(gw: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client, which tries once."""
    with anthropic.Anthropic(base_url=gw.url, api_key=GOOD, max_retries=0) as client:
        yield client
