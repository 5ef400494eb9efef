"""OpenAI's API inside an application of your own: one line mounts it.

Run it with ``python examples/embed_asgi.py``. The application is Starlette's and uvicorn serves it
(``pip install starlette uvicorn openai``); whatever else speaks ASGI will do. It asks itself a
question and ends; ``uvicorn embed_asgi:app`` in this folder serves it until ^C.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import read_runtime

MODEL = "builtin:helexa/tiny"

config = NeuronConfig(default_models=(ModelSpec(model_id=MODEL),))
neuron = Neuron(config, read_runtime(os.environ), os.environ)


async def home(request: Request) -> JSONResponse:
    """A page of the application's own."""
    return JSONResponse({"app": "mine", "models": [slot.id for slot in neuron.slots]})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """What is mounted is not told when the application starts and ends: this opens its models."""
    async with neuron.running():
        await neuron.activated.wait()
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", home),
        Mount("/llm", neuron.asgi()),  # the line
    ],
)


async def ask(url: str) -> None:
    """A question, by OpenAI's client."""
    async with AsyncOpenAI(base_url=f"{url}/llm/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is 17 + 25?"}],
            temperature=0,
            stream=True,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
        print()


async def main() -> None:
    """Serve the application on a free port, ask it, and end it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110  # it has no event for it
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    await ask(f"http://127.0.0.1:{port}")
    server.should_exit = True
    await serving
    print("Ended, and the model with it.")


if __name__ == "__main__":
    asyncio.run(main())
