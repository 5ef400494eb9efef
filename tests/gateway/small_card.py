"""A mock neuron with one small card: it loads what fits, and unloads what has nothing to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio

from tests.gateway.mock_setups import HEALTH
from tests.gateway.mocks import CHAT, MockNeuron, Reply, Seen, as_json, chat_answer, model

INDEX = 0


@dataclass
class SmallCard:
    """Give `setup` to `mock_neuron`. ``sizes`` of models and ``total_mb`` are in MiB.

    ``story`` is what was loaded, unloaded, refused and asked, oldest first; ``running`` the
    requests that a model has at the moment, the test's own ones included; ``recovering`` are models
    that are loaded and answer nobody, which cannot be unloaded.
    """

    sizes: dict[str, int]
    total_mb: int = 32_768
    load_s: float = 0.05
    chat_s: float = 0.02
    loaded: set[str] = field(default_factory=set)
    running: dict[str, int] = field(default_factory=dict)
    recovering: set[str] = field(default_factory=set)
    story: list[tuple[str, str]] = field(default_factory=list)

    @property
    def free_mb(self) -> int:
        return self.total_mb - sum(self.sizes[name] for name in self.loaded)

    def count(self, what: str, name: str | None = None) -> int:
        """How often something happened, to one model or to any."""
        return sum(w == what and name in (None, n) for w, n in self.story)

    def setup(self, mock: MockNeuron) -> None:
        """The neuron's routes."""

        async def endpoint(seen: Seen) -> Reply:
            if seen.model not in self.loaded:
                return as_json({"error": "not loaded"}, 404)
            return as_json({"url": mock.url})

        mock.on("GET /models", self._models)
        mock.on("GET /discovery", self._discovery)
        mock.on("GET /health", self._health)
        mock.on("POST /models/load", self._load)
        mock.on("POST /models/unload", self._unload)
        mock.on("GET /models/{id}/endpoint", endpoint)
        mock.on(CHAT, self._chat)

    async def _models(self, _: Seen) -> Reply:
        return as_json([self._model(name) for name in sorted(self.loaded)])

    def _model(self, name: str) -> dict[str, Any]:
        status = "recovering" if name in self.recovering else "loaded"
        return model(name, status=status, vram_used_mb=self.sizes[name])

    async def _discovery(self, _: Seen) -> Reply:
        device = {"index": INDEX, "name": "GPU", "vram_total_mb": self.total_mb}
        devices = [device | {"compute_capability": "9.0"}]
        return as_json({"hostname": "small", "os": "linux", "kernel": "6", "devices": devices})

    async def _health(self, _: Seen) -> Reply:
        free = {"index": INDEX, "vram_free_mb": self.free_mb}
        device = free | {"vram_used_mb": self.total_mb - self.free_mb}
        models = [
            {"id": name, "in_flight": self.running.get(name, 0), "queue_depth": 0}
            for name in sorted(self.loaded)
        ]
        return as_json(HEALTH | {"devices": [device], "models": models})

    async def _load(self, seen: Seen) -> Reply:
        name = seen.json["model_id"]
        await anyio.sleep(self.load_s)
        if self.free_mb < self.sizes[name]:
            self.story.append(("no room", name))
            return as_json({"error": {"kind": "insufficient_vram"}}, 422)
        self.loaded.add(name)
        self.story.append(("load", name))
        return as_json({"status": "loaded"})

    async def _unload(self, seen: Seen) -> Reply:
        name = seen.json["model_id"]
        if self.running.get(name):
            self.story.append(("busy", name))
            return as_json({"error": f"cannot unload '{name}': inference still in flight"}, 409)
        self.loaded.discard(name)
        self.story.append(("unload", name))
        return as_json({"status": "unloaded"})

    async def _chat(self, seen: Seen) -> Reply:
        name = seen.json["model"]
        if name not in self.loaded:
            self.story.append(("gone", name))
            error = {"message": "no", "type": "x", "code": "model_not_found", "param": None}
            return as_json({"error": error}, 404)
        self.running[name] = self.running.get(name, 0) + 1
        self.story.append(("chat", name))
        try:
            await anyio.sleep(self.chat_s)
        finally:
            self.running[name] -= 1
        return as_json(chat_answer(name))
