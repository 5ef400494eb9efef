"""The sources of models in effect: what is configured, and the hub everyone knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from helexa.engine.checkpoint.cache import cache_root
from helexa.engine.checkpoint.hub import HubAccess, told_offline
from helexa.errors import InvalidRequest
from helexa.neuron.config import EngineSection
from helexa.neuron.ids import ModelId

HUGGINGFACE = "huggingface"
BUILTIN = "builtin"
PACKAGE = "helexa"
ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Source:
    """A registry with a local cache, or a folder of models (``path``).

    ``endpoint`` has no slash at its end; ``auth_env`` names the variable that held ``token``.
    """

    scheme: str
    endpoint: str | None = None
    path: Path | None = None
    auth_env: str | None = None
    token: str | None = None
    cache_dir: str | None = None

    def cache(self, environ: Mapping[str, str]) -> Path:
        """The root of its cache; only the hub's own may be moved by the environment."""
        return cache_root(self.cache_dir or None, environ if self.scheme == HUGGINGFACE else {})

    def access(self, endpoint: str, environ: Mapping[str, str]) -> HubAccess:
        """How its registry at ``endpoint`` is reached; HF_HUB_OFFLINE is about the hub alone."""
        offline = self.scheme == HUGGINGFACE and told_offline(environ)
        return HubAccess(self.cache(environ), endpoint, self.token, offline)


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources by scheme, and the scheme of ids that have none."""

    by_scheme: Mapping[str, Source]
    default: str = HUGGINGFACE

    @classmethod
    def of(cls, engine: EngineSection, environ: Mapping[str, str]) -> Sources:
        """The configured ones, plus `huggingface` if it is not among them; tokens are read now."""
        configured = {
            scheme: Source(
                scheme,
                endpoint=entry.endpoint.rstrip("/") if entry.endpoint else None,
                path=Path(entry.path).expanduser() if entry.path else None,
                auth_env=entry.auth_env,
                token=environ.get(entry.auth_env or "") or None,
                cache_dir=entry.cache_dir,
            )
            for scheme, entry in engine.sources.items()
        }
        if HUGGINGFACE not in configured:
            configured[HUGGINGFACE] = Source(
                HUGGINGFACE,
                endpoint=(environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/"),
                auth_env="HF_TOKEN",
                token=environ.get("HF_TOKEN") or None,
                cache_dir=engine.hf_cache,
            )
        return cls(MappingProxyType(configured), engine.default_source)

    def find(self, text: str) -> tuple[ModelId, Source]:
        """The qualified id and the source of what a person asked for. Raises InvalidRequest."""
        id = ModelId.parse(text).qualified(self.default)
        scheme = id.scheme or self.default
        if scheme == BUILTIN:
            if id.org != PACKAGE:
                raise InvalidRequest(f"there is no {text!r} in the package", param="model_id")
            return id, Source(BUILTIN)
        if scheme not in self.by_scheme:
            known = ", ".join(sorted({*self.by_scheme, BUILTIN}))
            raise InvalidRequest(
                f"unknown source {scheme!r} in model id {text!r}",
                param="model_id",
                hint=f"configured: {known}",
            )
        return id, self.by_scheme[scheme]
