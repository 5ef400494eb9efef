"""A fleet on one machine: two neurons, one gateway, and who answered what.

Run it with ``python examples/gateway_fleet.py``. The two neurons stand for two hosts: on hosts of
your own, `helexa neuron` runs on each and `helexa gateway` anywhere. Everything here listens on
free ports of this machine and has ended when the program has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx

MODEL = "builtin:helexa/tiny"
QUESTIONS = [f"What is {n} + 25?" for n in range(10, 18)]
FREE = "127.0.0.1:0"
NEURON = {"NEURON_DEFAULT_MODELS": f'[{{model_id = "{MODEL}"}}]', "NEURON_WARM_SPARE": "0"}
GATEWAY = {"CORTEX_POLLER__INTERVAL_SECS": "0.5"}  # 10 would do; nobody wants to wait in an example
TIMEOUT_S = 60.0


@contextmanager
def daemon(environ: dict[str, str], *words: str) -> Iterator[list[str]]:
    """`helexa` with these words, as a process: the URLs that it says it listens on."""
    command = [sys.executable, "-m", "helexa", *words]
    given = {**os.environ, "HELEXA_LOG": "info", "HELEXA_LOG_FORMAT": "text", **environ}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given) as process:
        try:
            assert process.stderr is not None
            log = iter(process.stderr)  # only its beginning is read
            urls = next(filter(None, (re.findall(r"http://[^\s]+", line) for line in log)), None)
            if urls is None:
                sys.exit(f"helexa {words[0]} did not start")
            yield urls
            process.send_signal(signal.SIGTERM)
            if status := process.wait(TIMEOUT_S):
                sys.exit(f"helexa {words[0]} ended with status {status}")
        finally:
            process.kill()


def wait_until_loaded(client: httpx.Client, places: int) -> None:
    """Return once the gateway knows of so many loaded copies of the model."""
    began = time.monotonic()
    while time.monotonic() - began < TIMEOUT_S:
        listed = client.get("/v1/models").json()["data"]
        found = [place for entry in listed for place in entry["locations"]]
        if [place["status"] for place in found].count("loaded") == places:
            return
        time.sleep(0.2)
    sys.exit("the neurons did not load the model")


def ask(client: httpx.Client, question: str) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0}
    answer = client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def answered_by(metrics_url: str) -> Counter[str]:
    """How many requests went to each node, by the gateway's own count."""
    text = httpx.get(metrics_url).text
    counted = re.findall(r'cortex_requests_total\{.*node="(\w+)"\} (\d+)', text)
    return Counter({node: int(times) for node, times in counted})


def main() -> None:
    with ExitStack() as fleet:
        words = []
        for name in ("anna", "bert"):
            (url,) = fleet.enter_context(daemon(NEURON, "neuron", "--port", "0"))
            words += ["--neuron", f"{name}={url}"]
        listen = ["--listen", FREE, "--metrics-listen", FREE]
        api, metrics = fleet.enter_context(daemon(GATEWAY, "gateway", *listen, *words))
        client = fleet.enter_context(httpx.Client(base_url=api, timeout=TIMEOUT_S))
        wait_until_loaded(client, 2)
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:  # all at once, so that both are needed
            answers = list(pool.map(lambda question: ask(client, question), QUESTIONS))
        for question, text in zip(QUESTIONS, answers, strict=True):
            print(f"{question}  {text}")
        print(f"\nAnswered by: {dict(answered_by(metrics))}\n")
        subprocess.run([sys.executable, "-m", "helexa", "status", "-e", api], check=True)
    print("\nThe fleet has ended.")


if __name__ == "__main__":
    main()
