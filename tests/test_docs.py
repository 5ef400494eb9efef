"""The documentation is true: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import click
import pytest

import helexa
from helexa.cli.main import cli
from helexa.engine.config import SWITCHES
from helexa.errors import HelexaError, InvalidRequest
from helexa.neuron.app import ROUTES, SURFACES
from helexa.refusals import CudaUnavailable, Overloaded, Refusal, Unavailable, WrongModality

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """First line number and code of each fenced block in one language."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] == language:
            yield text.count("\n", 0, match.start(2)), match[2]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Blocks run in order in one namespace, and may await, as in a notebook."""
    monkeypatch.chdir(tmp_path)
    anyio.run(run_page, page)


async def run_page(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, source in blocks(page, "python"):
        padded = "\n" * line + source  # tracebacks then show the page's own line numbers
        code = compile(padded, name(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)  # a coroutine if the block awaits, else it has run
        if inspect.iscoroutine(result):
            await result


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "json"))], ids=name)
def test_the_json_of_a_page_can_be_read(page: Path) -> None:
    for _, text in blocks(page, "json"):
        assert json.loads(text)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=name)
def test_the_rows_of_a_table_have_as_many_cells(page: Path) -> None:
    cells = 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        found = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line)))
        if not line.startswith("|"):
            cells = 0
            continue
        assert line.rstrip().endswith("|"), f"line {number} is cut off"
        assert found == (cells or found), f"line {number}"
        cells = found


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for _, text in blocks(page, "console"):
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if "helexa" in words:
                    yield name(page), shlex.join(words[words.index("helexa") + 1 :])


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_a_command_line_in_the_docs_is_understood(page: str, line: str) -> None:
    words = shlex.split(line)
    root = click.Context(cli, info_name="helexa", **cli.context_settings)
    if words[0].startswith("-"):
        assert words == ["--help"]
        return
    command = cli.get_command(root, words[0])
    assert command is not None, f"{page} names `helexa {words[0]}`, which does not exist"
    command.make_context(words[0], words[1:], parent=root, resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not heading or heading in headings(found), target


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_the_api_reference_names_every_route() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    routes = [f"{method} {path}" for method, path, _ in ROUTES]
    routes += [f"POST {path}" for path, _, _ in SURFACES]
    missing = [route for route in routes if f"`{route}`" not in text]
    assert missing == []


def codes(of: type[HelexaError]) -> Iterator[str]:
    """What a neuron's refusals of an inference request are called on the wire."""
    for kind in (of, *of.__subclasses__()):
        if kind.__module__.startswith("helexa.gateway"):
            continue  # another test has imported it
        if isinstance(code := getattr(kind, "code", None), str):
            yield code
        if kind is not of:
            yield from codes(kind)


GATEWAY_ONLY = {"insufficient_quota", "service_unavailable", "bad_request"}


def test_the_api_reference_names_every_refusal() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = {*codes(Refusal), *codes(Overloaded), *codes(Unavailable), *codes(InvalidRequest)}
    flat = {CudaUnavailable.code, WrongModality.code}
    assert found - GATEWAY_ONLY - flat - set(re.findall(r"`(\w+)`", text)) == set()


def test_the_switches_of_fast_paths_are_in_one_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("### Fast paths\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", section, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(SWITCHES)
    assert {where for _, where in rows} <= {"CPU", "GPU", "CPU, GPU", "nowhere"}


def public_names() -> Iterator[str]:
    """Everything a user of the SDK can write, from the code itself."""
    yield from (name for name in helexa.__all__ if not name.startswith("_"))
    yield from (field.name for field in fields(helexa.SamplingParams))
    yield from (field.name for field in fields(helexa.ModelInfo))
    yield from (field.name for field in fields(helexa.Usage))
    for function in (helexa.LLM.__init__, helexa.LLM.chat):
        yield from (name for name in inspect.signature(function).parameters if name != "self")


UNDOCUMENTED = {
    "overrides",  # is **overrides in the text
    "prefill_tokens",  # the same as prompt_tokens
}


def test_the_sdk_reference_names_everything_public() -> None:
    text = (ROOT / "docs" / "sdk.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    assert set(public_names()) - words - UNDOCUMENTED == set()
