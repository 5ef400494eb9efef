"""Sizes that keep the code readable: files, functions, parameters."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("src", "tests", "tools", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 7

# The SDK's own face: keyword options, each with a default, that people look up by name.
MANY_OPTIONS = {
    "Handle.__init__",
    *(f"{kind}.{name}" for kind in ("LLM", "AsyncLLM") for name in ("chat", "stream_chat")),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield f"{prefix}{node.name}", node
        if isinstance(node, Function | ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def code_lines(source: str) -> set[int]:
    """The lines that hold code: no blank ones, no comments."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def length(function: Function, lines: set[int]) -> int:
    """Lines of code of a function's body, docstring and decorators left out."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    inside = {n for node in body for n in range(node.lineno, (node.end_lineno or 0) + 1)}
    return len(inside & lines)


def parameters(function: Function) -> int:
    given = function.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MAX_FILE_LINES
    lines = code_lines(source)
    for name, function in functions(ast.parse(source)):
        assert length(function, lines) <= MAX_FUNCTION_LINES, name
        if name not in MANY_OPTIONS:
            assert parameters(function) <= MAX_PARAMETERS, name
