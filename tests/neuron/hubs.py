"""A hub on this machine that has the built-in model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.engine.checkpoint.conftest import FakeHub, serving

TINY_FOLDER = Path(__file__).parents[2] / "src/helexa/builtin/tiny"


@contextmanager
def hub_with_tiny() -> Iterator[FakeHub]:
    """Its listings at ``endpoint``, its files at ``store``; what waits at its gate goes on."""
    fake = FakeHub(
        {path.name: path.read_bytes() for path in TINY_FOLDER.iterdir() if path.is_file()}
    )
    with ExitStack() as servers:
        fake.endpoint = servers.enter_context(serving(fake))
        fake.store = servers.enter_context(serving(fake))
        yield fake
        if fake.gate is not None:
            fake.gate.set()
