"""What a plan may ask for that the engine cannot do yet: refused before anything is fetched."""

from __future__ import annotations

from helexa.errors import InvalidRequest
from helexa.neuron.preflight import Plan


def refuse_unbuilt(plan: Plan) -> None:
    """Raises InvalidRequest, naming the key of the load that is at fault if there is one."""
    if plan.tp_size > 1:
        raise InvalidRequest(
            f"tensor_parallel is {plan.tp_size}, a model cannot be split over devices yet",
            param="tensor_parallel",
            hint="leave tensor_parallel out, or set it to 1",
        )
    if plan.format.kind == "diffusers":
        raise InvalidRequest(f"'{plan.model_id}' makes images, which cannot be run yet")
