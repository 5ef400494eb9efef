"""A tool call from end to end: the model asks for a call, we make it, the model answers from it."""

from __future__ import annotations

import json
from typing import Any

import helexa

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def get_weather(city: str) -> str:
    """Stand in for a weather service."""
    return json.dumps({"weather": "sunny", "temperature": 21 if city == "Oslo" else 30})


FUNCTIONS = {"get_weather": get_weather}


def main() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    with helexa.LLM("tiny") as llm:
        asked = llm.chat(messages, tools=[WEATHER], temperature=0, max_tokens=64)
        print("Finished because of:", asked.finish_reason)
        messages.append(asked.message)

        for call in asked.tool_calls:
            print(f"The model wants {call.name}({call.arguments})")
            result = FUNCTIONS[call.name](**json.loads(call.arguments))
            print("We answer:", result)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

        told = llm.chat(messages, tools=[WEATHER], temperature=0, max_tokens=64)
        print("The model says:", told.text)


if __name__ == "__main__":
    main()
