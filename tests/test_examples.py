"""Every example runs in a fresh interpreter and shows what it says it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

SHOWS: dict[str, tuple[str, ...]] = {
    "quickstart.py": ("42", "tiny", "LOMAR", r"found in the cache: [1-9]"),
    "streaming_async.py": ("= 42", "Paris", "Only the beginning: .", "Awaited: .*42"),
    "batch.py": (r"(1[89]|20) of 20 right", "Repeated with the same seed: equal"),
    "tools.py": ("because of: tool_calls", r'get_weather\({"city": ?"Oslo"}\)', "says: .*21"),
    "embed_asgi.py": ("= 42", "Ended, and the model with it."),
    "serve_and_ask.py": (
        *("is ready", r"OpenAI's client > Hello.*\n.*tiny.*\n  \[\d+ tokens in"),
        *(r"Anthropic's client > What is 17.*\n.*= 42\.\n  \[\d+ tokens in", "has ended"),
    ),
    "gateway_fleet.py": (
        *("= 42", "Answered by: .*'anna': [1-9].*'bert': [1-9]"),
        *(r"anna\(loaded\), bert\(loaded\)", "The fleet has ended."),
    ),
    "inside_the_model.py": ("logits", "cache", "sampler"),
}


def test_every_example_is_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWS)


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_runs_and_shows_its_point(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for pattern in SHOWS[name]:
        assert re.search(pattern, done.stdout), f"{pattern!r} not in:\n{done.stdout}"


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = json.dumps(outputs)
    for expected in ("17 + 25 = 42", "name='add_numbers'", "LOMAR", "EngineStatus("):
        assert expected in shown, expected


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
