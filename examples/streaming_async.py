"""Several conversations at once over one model, on asyncio; trio works the same way.

The answers are generated together, step by step, in one batch. Leaving a loop early stops that
answer at once and costs the others nothing.
"""

from __future__ import annotations

import anyio

import helexa

QUESTIONS = ("Hello!", "What is 12 + 30?", "What is the capital of France?", "Who are you?")


async def ask(llm: helexa.AsyncLLM, number: int, question: str) -> None:
    """Stream one answer and report when its first text and its end came."""
    parts: list[str] = []
    async for event in llm.chat([{"role": "user", "content": question}], temperature=0):
        if isinstance(event, helexa.Text):
            parts.append(event.text)
        elif isinstance(event, helexa.Finish):
            usage = event.usage
            print(
                f"[{number}] {question} → {''.join(parts)} "
                f"({usage.completion_tokens} tokens, first after {usage.prefill_ms:.0f} ms)"
            )


async def first_words(llm: helexa.AsyncLLM, question: str) -> str:
    """Stop listening after the first piece of text: leaving the loop aborts the request."""
    async for event in llm.chat([{"role": "user", "content": question}]):
        if event.text:
            return event.text
    return ""


async def main() -> None:
    async with helexa.AsyncLLM("tiny") as llm:
        async with anyio.create_task_group() as tasks:
            for number, question in enumerate(QUESTIONS):
                tasks.start_soon(ask, llm, number, question)

        print("Only the beginning:", await first_words(llm, "Tell me about yourself."))

        # The same object can be awaited when the whole answer is wanted.
        answer = await llm.chat([{"role": "user", "content": "What is 50 - 8?"}], temperature=0)
        print("Awaited:", answer.text)


if __name__ == "__main__":
    anyio.run(main)
