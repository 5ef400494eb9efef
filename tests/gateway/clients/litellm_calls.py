"""A process with LiteLLM in it: arguments of calls in, by name and as JSON; what came of them out.

It is a process because the library leaves event loops and clients behind for whoever comes after.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm

litellm.telemetry = False
litellm.suppress_debug_info = True


def outcome(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to one call, or the names of the classes of the error that it raises.

    With `then`, what a tool says, there is a second call for the answer to that; `async` calls the
    other function, `stream` adds up the pieces.
    """
    then, in_loop = asked.pop("then", None), asked.pop("async", False)
    try:
        found = asyncio.run(one_async(asked)) if in_loop else one(asked)
    except Exception as error:
        return {"raised": [kind.__name__ for kind in type(error).__mro__]}
    if then is not None:
        ids = [call["id"] for call in found["message"]["tool_calls"]]
        results = [{"role": "tool", "tool_call_id": id, "content": then} for id in ids]
        turns = [*asked["messages"], found["message"], *results]
        found["second"] = outcome({**asked, "messages": turns})
    return found


def one(asked: dict[str, Any]) -> dict[str, Any]:
    answer = litellm.completion(**asked)
    return summed(list(answer)) if asked.get("stream") else told(answer)


async def one_async(asked: dict[str, Any]) -> dict[str, Any]:
    answer = await litellm.acompletion(**asked)
    return summed([part async for part in answer]) if asked.get("stream") else told(answer)


def summed(chunks: list[Any]) -> dict[str, Any]:
    """A stream: its sum, how many pieces there were, and the reason that one of them had."""
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    (reason,) = {reason for reason in reasons if reason}
    whole = told(litellm.stream_chunk_builder(chunks))
    return {**whole, "chunks": len(chunks), "reason": reason}


def told(answer: Any) -> dict[str, Any]:
    (choice,) = answer.choices
    return {
        "message": choice.message.model_dump(),
        "reason": choice.finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    }


if __name__ == "__main__":
    cases: dict[str, dict[str, Any]] = json.load(sys.stdin)
    json.dump({name: outcome(asked) for name, asked in cases.items()}, sys.stdout)
