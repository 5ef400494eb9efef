"""Start `helexa serve`, ask it with OpenAI's client and with Anthropic's, time both, and stop it.

Run it with ``python examples/serve_and_ask.py [MODEL]``; MODEL is ``tiny`` unless you name another.
``make demo`` is this. The exit status is 0 only if every step worked.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from anthropic import Anthropic
from openai import OpenAI

QUESTIONS = ("Hello! Who are you?", "What is 17 plus 25?")
STOP_TIMEOUT_S = 60


@contextmanager
def served(model: str) -> Iterator[str]:
    """The address of a server that is ready, and that ends cleanly afterwards."""
    command = [sys.executable, "-m", "helexa", "serve", model, "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # written once the model answers
            found = re.search(r"(http://\S+)/v1", line)
            if found is None:
                sys.exit("helexa serve did not start")
            yield found[1]
            process.send_signal(signal.SIGINT)
            if status := process.wait(STOP_TIMEOUT_S):
                sys.exit(f"helexa serve ended with status {status}")
        finally:
            process.kill()


def by_openai(client: OpenAI, model: str, question: str) -> Iterator[str | int]:
    """The pieces of an answer as they come, then the number of its tokens."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        yield from (choice.delta.content or "" for choice in chunk.choices)
        if chunk.usage is not None:
            yield chunk.usage.completion_tokens


def by_anthropic(client: Anthropic, model: str, question: str) -> Iterator[str | int]:
    """The same from the other API."""
    with client.messages.stream(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=100,
        extra_body={"temperature": 0},  # newer clients have no argument for it
    ) as stream:
        yield from stream.text_stream
        yield stream.get_final_message().usage.output_tokens


def show(who: str, question: str, answer: Iterator[str | int]) -> None:
    """Print a question, its answer as it comes, and how long that took."""
    print(f"\n{who} > {question}")
    began_s = time.perf_counter()
    first_s, tokens = 0.0, 0
    for piece in answer:
        if isinstance(piece, int):
            tokens = piece
        elif piece:
            first_s = first_s or time.perf_counter() - began_s
            print(piece, end="", flush=True)
    took_s = time.perf_counter() - began_s
    if not tokens or not first_s:
        sys.exit("there was no answer")
    print(f"\n  [{tokens} tokens in {took_s:.2f} s, the first text after {first_s:.2f} s]")


def main(model: str = "tiny") -> None:
    began_s = time.perf_counter()
    with served(model) as url:
        print(f"{url} is ready after {time.perf_counter() - began_s:.1f} s")
        with (
            OpenAI(base_url=f"{url}/v1", api_key="none") as openai,
            Anthropic(base_url=url, api_key="none") as anthropic,
        ):
            id = openai.models.list().data[0].id  # the others are other names of it
            for question in QUESTIONS:
                show("OpenAI's client", question, by_openai(openai, id, question))
                show("Anthropic's client", question, by_anthropic(anthropic, id, question))
    print("\nThe server has ended.")


if __name__ == "__main__":
    main(*sys.argv[1:])
