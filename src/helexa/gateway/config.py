"""Everything an operator can set, with default and meaning: what docs/gateway-config.md says."""

from __future__ import annotations

from dataclasses import dataclass

from helexa.daemon.schema import flag, number, required, rows, section, setting, text, texts, whole
from helexa.gateway.config_kinds import (
    base_url,
    ledger_place,
    listen_address,
    one_of,
    secret,
    visible_id,
)

DEFAULT_PATH = "/etc/helexa/gateway.toml"
CATALOGUES = ("/etc/helexa/models.toml", "/etc/cortex/models.toml")
STRATEGIES = ("lru", "priority")
WINDOWS = ("balance", "rolling")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the gateway listens, and how long it waits at its end."""

    listen: str = setting(
        listen_address(), "127.0.0.1:31313", "address of the API; port 0 takes a free one"
    )
    metrics_listen: str = setting(
        listen_address(empty=True), "127.0.0.1:31314", 'address for Prometheus; `""`: none'
    )
    drain_timeout_secs: float = setting(
        number(), 120.0, "how long running requests may go on at shutdown"
    )


@dataclass(frozen=True, slots=True)
class NeuronEntry:
    """One neuron."""

    name: str = required(text(empty=False), "its name in metrics, logs and `pinned_on`")
    endpoint: str = required(base_url(), "its base URL")
    bearer: str | None = setting(
        secret(), None, "sent as `Authorization: Bearer` on every call to it"
    )
    allow_hosts: tuple[str, ...] = setting(
        texts(),
        (),
        'hosts besides its own where it may say that a model answers; `["*"]`: any',
    )


@dataclass(frozen=True, slots=True)
class EvictionConfig:
    """Which model goes when another needs its place."""

    strategy: str = setting(
        one_of(*STRATEGIES), "lru", "`lru`: the longest unused; `priority`: the lowest first"
    )
    defrag_after_cycles: int = setting(
        whole(), 0, "warn of fragmented memory after so many unloads of a node; 0: never"
    )


@dataclass(frozen=True, slots=True)
class PollerConfig:
    """How neurons are watched."""

    interval_secs: float = setting(
        number(positive=True), 10.0, "pause between two looks at a neuron"
    )
    timeout_secs: float = setting(number(positive=True), 5.0, "limit of each question")
    failure_threshold: int = setting(
        whole(1), 3, "failures in a row after which a neuron counts as down"
    )
    capability_retry_secs: float = setting(
        number(), 600.0, "when to ask again what a model that is not loaded can do"
    )


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Passing requests on."""

    connect_timeout_secs: float = setting(
        number(positive=True), 5.0, "a connection to a neuron must stand within this time"
    )
    first_byte_timeout_secs: float = setting(
        number(positive=True), 300.0, "a stream must begin within this time"
    )
    non_stream_timeout_secs: float = setting(
        number(positive=True), 1800.0, "any other answer must begin within this time"
    )
    idle_timeout_secs: float = setting(
        number(positive=True), 300.0, "a neuron that is silent inside a body for this long is cut"
    )
    write_timeout_secs: float = setting(
        number(positive=True), 300.0, "a client that reads nothing for this long is cut"
    )
    forward_authorization: bool = setting(
        flag(), False, "pass `Authorization` and `x-api-key` on to the neurons"
    )
    retry: bool = setting(
        flag(), True, "ask another replica if the first refuses or is unreachable"
    )


@dataclass(frozen=True, slots=True)
class ColdLoadConfig:
    """Loading a model because somebody asked for it."""

    timeout_secs: float = setting(number(positive=True), 1800.0, "limit of one load")
    wait_secs: float = setting(
        number(), 240.0, "how long a request waits for a load before it is told to come back"
    )
    backoff_secs: float = setting(
        number(), 30.0, "how long a node is left alone after a load failed there"
    )


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What clients may do to the gateway."""

    max_body_bytes: int = setting(whole(1), 67108864, "largest request body")
    max_buffered_bytes: int = setting(
        whole(1), 1073741824, "most bytes of request bodies and of what is made of them, at once"
    )
    max_connections: int = setting(
        whole(1), 4096, "open connections; more wait in the listen queue"
    )


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """What a cap counts."""

    kind: str = setting(
        one_of(*WINDOWS), "balance", "`balance`: all there ever was; `rolling`: see `seconds`"
    )
    seconds: int | None = setting(
        whole(1), None, "a rolling window begins with a request and ends after this time"
    )


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One key of a client."""

    key: str = required(secret(), "the secret that a client sends as bearer")
    account_id: str = required(visible_id(), "who pays")
    key_id: str | None = setting(
        visible_id(),
        None,
        "the key's name in metrics; keys of one name share one budget",
        default_text="account_id",
    )
    hard_cap: int | None = setting(whole(), None, "tokens that may be spent; none: no limit")
    window: WindowConfig = section(WindowConfig)

    @property
    def ledger_id(self) -> str:
        """The name of its budget."""
        return self.key_id or self.account_id


@dataclass(frozen=True, slots=True)
class EntitlementsConfig:
    """Who may ask, and how much."""

    require_auth: bool = setting(flag(), False, "refuse requests without a known key")
    keys: tuple[KeyConfig, ...] = rows(KeyConfig, (), "the keys")
    ledger: str | None = setting(
        ledger_place(),
        None,
        "where budgets are kept: `memory`, `sqlite`, `sqlite:///path` or `postgresql://…`; where "
        "no file can be written, only the default falls back to memory",
        default_text='`"sqlite"`',
    )


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """An authority that knows keys which are not listed here."""

    enabled: bool = setting(flag(), False, "ask an authority about unknown keys")
    url: str = setting(base_url(empty=True), "", "its base URL")
    bearer: str = setting(secret(empty=True), "", "sent to it as bearer")
    timeout_secs: float = setting(number(positive=True), 5.0, "limit of one question")
    served_usage_report_interval_secs: float = setting(
        number(positive=True), 60.0, "pause between two reports of served tokens"
    )


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """One gateway's configuration."""

    neurons: tuple[NeuronEntry, ...] = rows(
        NeuronEntry, (), "the neurons; may be `[]`", default_text="required"
    )
    gateway: Listen = section(Listen)
    models_config: str | None = setting(
        text(),
        None,
        'the catalogue, which may be absent; `""`: none',
        default_text=f"`{CATALOGUES[0]}`, or `{CATALOGUES[1]}` if only that exists",
    )
    eviction: EvictionConfig = section(EvictionConfig)
    poller: PollerConfig = section(PollerConfig)
    proxy: ProxyConfig = section(ProxyConfig)
    cold_load: ColdLoadConfig = section(ColdLoadConfig)
    limits: LimitsConfig = section(LimitsConfig)
    entitlements: EntitlementsConfig = section(EntitlementsConfig)
    upstream: UpstreamConfig = section(UpstreamConfig)
