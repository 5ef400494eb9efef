"""Load a model, ask it things, watch an answer arrive, and see what it cost.

Run it with ``python examples/quickstart.py [MODEL]``; MODEL is ``tiny`` unless you name another.
"""

from __future__ import annotations

import sys

import helexa


def main(model: str = "tiny") -> None:
    with helexa.LLM(model) as llm:
        print(llm)

        answer = llm.chat([{"role": "user", "content": "What is 17 + 25?"}], temperature=0)
        print("\nOne answer:", answer.text)

        print("A stream:  ", end=" ")
        for event in llm.stream_chat([{"role": "user", "content": "Who are you?"}], temperature=0):
            print(event.text, end="", flush=True)
            if isinstance(event, helexa.Finish):
                usage = event.usage
        print(f"\n\n{usage.completion_tokens} tokens in {usage.decode_ms:.0f} ms")

        conversation: list[dict[str, object]] = [
            {"role": "system", "content": "Answer in capital letters."},
            {"role": "user", "content": "Where does Mira live?"},
        ]
        answer = llm.chat(conversation, temperature=0, max_tokens=64)
        print("\nWith a system message:", answer.text)

        conversation += [answer.message, {"role": "user", "content": "What is her job?"}]
        answer = llm.chat(conversation, temperature=0, max_tokens=64)
        print("And the next turn:    ", answer.text)
        print("Prompt tokens found in the cache:", answer.usage.cached_tokens)


if __name__ == "__main__":
    main(*sys.argv[1:2])
