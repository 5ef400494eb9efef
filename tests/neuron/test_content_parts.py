"""Content as a list of texts, over HTTP, for models whose templates take strings only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from tests.neuron.daemons import Daemon, started
from tests.text.template_styles import STRINGS

TINY_FOLDER = Path(__file__).parents[2] / "src/helexa/builtin/tiny"
NAMES = {name: name.replace(" ", "-") for name in STRINGS}
CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    models = tmp_path_factory.mktemp("models")
    for style, name in NAMES.items():
        folder = models / "styles" / name
        folder.mkdir(parents=True)
        for file in TINY_FOLDER.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.jinja").write_text(STRINGS[style])
    engine = EngineSection(sources={"disk": SourceConfig(path=str(models))})
    with started(NeuronConfig(port=0, engine=engine)) as running:
        yield running


def conversation(content: Any) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": content},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call00001", "content": content},
    ]


@pytest.mark.parametrize("style", ["else nothing", "trimmed", "concatenated"])
def test_lists_of_texts_reach_the_model(at: Daemon, style: str) -> None:
    model = f"disk:styles/{NAMES[style]}"
    at.ensure(model)
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "12 + 7?"}]
    joined = "What is\n12 + 7?"
    for tools in (None, TOOLS):
        asked: Any = {"model": model, "tools": tools, "temperature": 0, "max_tokens": 8}
        told = [
            at.post("/tokenize", **asked, messages=conversation(content)).json()["tokens"]
            for content in (parts, joined)
        ]
        assert told[0] == told[1]
        answers = [
            at.post("/v1/chat/completions", **asked, messages=conversation(content))
            for content in (parts, joined)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        first, second = (answer.json() for answer in answers)
        assert first["choices"] == second["choices"]
        assert first["usage"]["prompt_tokens"] == len(told[0])
    text = at.post("/detokenize", model=model, tokens=told[0]).json()["prompt"]
    assert text.count(joined) == 3
    at.unload(model)
