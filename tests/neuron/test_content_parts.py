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
STYLES = {name.replace(" ", "-"): STRINGS[name] for name in STRINGS}
QUOTING = "{{ raise_exception('cannot show ' ~ messages[-1].content) }}"
CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    models = tmp_path_factory.mktemp("models")
    for name, template in {**STYLES, "quoting": QUOTING}.items():
        folder = models / "styles" / name
        folder.mkdir(parents=True)
        for file in TINY_FOLDER.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.jinja").write_text(template)
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


@pytest.mark.parametrize("style", ["else-nothing", "trimmed", "concatenated"])
def test_lists_of_texts_reach_the_model(at: Daemon, style: str) -> None:
    model = f"disk:styles/{style}"
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


def test_n144_a_template_that_quotes_its_messages_is_not_logged(at: Daemon) -> None:
    model = "disk:styles/quoting"
    at.ensure(model)
    secret = "nobody else may read this"
    asked: Any = {
        "model": model,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": secret}],
    }
    refused = at.post("/v1/chat/completions", **asked, tools=TOOLS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "template_render_failed")
    assert secret in refused.json()["error"]["message"]
    for schema in ({"$ref": secret}, {"enum": [secret, secret], "type": "integer"}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert at.post("/v1/chat/completions", **asked, response_format=form).status_code == 400
    answers = [at.post("/v1/chat/completions", **asked).status_code for _ in range(3)]
    assert answers == [200] * 3
    at.unload(model)
    text = at.log.text()
    assert secret not in text
    assert text.count("ChatML is used") == 1
    assert text.count("request rejected") == 3
