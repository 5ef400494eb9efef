"""The control routes: what a daemon is, how it is doing, and which models it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread

from helexa.daemon.build import with_cuda
from helexa.errors import HelexaError, PreflightError
from helexa.http import Response
from helexa.neuron.api.answering import JSON
from helexa.neuron.api.bodies import read_body
from helexa.neuron.ids import ModelSpec
from helexa.neuron.listing import known_capabilities
from helexa.neuron.metrics import CONTENT_TYPE
from helexa.neuron.registry import StillRunning
from helexa.protocol.envelope import WireError, chain_text, flat_error, refused_load
from helexa.protocol.json_text import to_json
from helexa.protocol.openai.models import model_list, model_object
from helexa.refusals import ModelNotFound, Unavailable

if TYPE_CHECKING:
    from helexa.http import Request
    from helexa.neuron.app import Neuron


def ok(value: Any) -> Response:
    return Response(to_json(value), media_type=JSON)


def told(error: WireError) -> Response:
    return Response(to_json(error.body()), error.status, error.headers(), media_type=JSON)


async def version(neuron: Neuron, request: Request) -> Response:
    cuda = neuron.hardware.sample.cards.usable_cuda
    return ok(with_cuda(neuron.build, cuda).to_wire())


async def discovery(neuron: Neuron, request: Request) -> Response:
    cap = neuron.runtime.prompt_cap_tokens
    return ok(neuron.hardware.discovery(neuron.config.harness_names, cap).to_wire())


async def health(neuron: Neuron, request: Request) -> Response:
    loads = [slot.load_report() for slot in neuron.slots if slot.state == "loaded"]
    body = neuron.hardware.health(neuron.uptime_s, neuron.activation.status, loads)
    return ok(body.to_wire())


async def models(neuron: Neuron, request: Request) -> Response:
    infos = [slot.model_info().to_wire() for slot in neuron.slots]
    return ok(sorted(infos, key=lambda info: str(info["id"])))


async def openai_models(neuron: Neuron, request: Request) -> Response:
    loaded = [(slot.id, slot.created_s) for slot in neuron.slots if slot.state == "loaded"]
    return ok(model_list(loaded))


async def openai_model(neuron: Neuron, request: Request) -> Response:
    """One model of those that `openai_models` lists. Raises ModelNotFound."""
    slot = neuron.registry.find(request.params["id"])
    if slot.state != "loaded":
        raise ModelNotFound(request.params["id"])
    return ok(model_object(slot.id, slot.created_s))


async def endpoint(neuron: Neuron, request: Request) -> Response:
    try:
        neuron.registry.find(request.params["id"])
    except ModelNotFound as error:
        return told(flat_error(error, 404))
    return ok({"url": f"http://localhost:{neuron.port}"})


async def capabilities(neuron: Neuron, request: Request) -> Response:
    model_id = request.params["id"]
    try:
        return ok({"capabilities": list(neuron.registry.find(model_id).model.info.capabilities)})
    except ModelNotFound:
        found = await anyio.to_thread.run_sync(  # a cache on a network may take its time
            known_capabilities,
            *(model_id, neuron.registry.sources, neuron.environ),
            limiter=neuron.threads.looking,
            abandon_on_cancel=True,
        )
    if found is None:
        error = HelexaError(f"model '{model_id}' is not loaded and not on this machine")
        return told(flat_error(error, 404))
    return ok({"capabilities": list(found)})


async def metrics(neuron: Neuron, request: Request) -> Response:
    return Response(neuron.metrics.render(), media_type=CONTENT_TYPE)


async def load(neuron: Neuron, request: Request) -> Response:
    """Load a model; answers when it is loaded."""
    spec = await read_body(neuron, request, ModelSpec.from_json)
    try:
        await neuron.load(spec)
    except Unavailable:
        raise
    except Exception as error:  # logged by the registry; whatever it was, the caller is told
        # The engine refuses with the same class, but without the facts that a gateway reads.
        if isinstance(error, PreflightError) and error.details:
            return told(refused_load(error))
        return told(flat_error(error))
    return ok({"status": "loaded"})


async def unload(neuron: Neuron, request: Request) -> Response:
    """Unload a model; answers when its memory is free."""
    body = await read_body(neuron, request, lambda value: value)
    model_id = body.get("model_id") if isinstance(body, dict) else None
    if not isinstance(model_id, str) or not model_id:
        return told(WireError(400, "missing model_id", flat=True))
    try:
        await neuron.registry.unload(model_id, force=body.get("force") is True)
    except ModelNotFound as error:
        return told(WireError(404, chain_text(error), flat=True))
    except StillRunning as error:
        return told(flat_error(error, 409))
    return ok({"status": "unloaded"})
