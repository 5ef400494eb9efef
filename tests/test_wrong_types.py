"""Values of the wrong kind, wherever one can be passed: each is named, and costs nothing."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import helexa
from helexa import LLM, SamplingParams
from helexa.errors import CheckpointError, HelexaError, InvalidRequest
from tests.test_wrong_use import says


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", device="cpu") as loaded:
        yield loaded


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 10**9},
        {"num_hidden_layers": 300_000},
        {"vocab_size": 10**9},
        {"intermediate_size": 10**9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_with_a_size_that_no_tensor_has_costs_nothing(
    tmp_path: Path, change: dict[str, int]
) -> None:
    folder = shutil.copytree(Path(helexa.__file__).parent / "builtin" / "tiny", tmp_path / "m")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="model\\."):
        LLM(folder, device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("content", [b"hi", {"a"}, bytearray(b"x")], ids=["bytes", "set", "array"])
def test_content_that_no_template_can_show_is_refused(llm: LLM, content: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat([{"role": "user", "content": content}])
    says(caught.value, type(content).__name__)


@pytest.mark.parametrize("calls", ["x", {"a": 1}, [None], [{"id": "x"}], [{"function": {}}]])
def test_a_call_without_a_name_is_refused(llm: LLM, calls: object) -> None:
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    with pytest.raises(InvalidRequest) as caught:
        llm.chat([{"role": "user", "content": "hi"}, message])
    says(caught.value, "messages[1].tool_calls", "name")


@pytest.mark.parametrize("tool", [{}, {"type": "function"}, {"function": {"name": 5}}])
def test_a_tool_without_a_name_is_refused(llm: LLM, tool: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat("hi", tools=[tool])
    says(caught.value, "tools[0]", "name")


@pytest.mark.parametrize("ids", [None, 5, [[1, 2]], [1.0], [True], b"hi"])
def test_what_is_no_list_of_ids_is_not_decoded(llm: LLM, ids: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.detokenize(ids)
    says(caught.value, "token ids")


@pytest.mark.parametrize("model", [None, 5, ["tiny"]])
def test_what_is_no_model_is_not_loaded(model: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        helexa.load_model(model)
    says(caught.value, "name")


def test_options_that_cannot_work_are_refused() -> None:
    for options, word in (
        ({"max_context": 1}, "max_context"),
        ({"progress": 5}, "progress"),
        ({"block_size": 10**5}, "block_size"),
    ):
        with pytest.raises(HelexaError) as caught:
            LLM("tiny", device="cpu", **options)
        says(caught.value, word)
    with pytest.raises(InvalidRequest):
        helexa.load_model("tiny", disabled=["typo"])


def test_a_negative_temperature_in_params_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequest):
        llm.chat("hi", SamplingParams(temperature=-1))


@pytest.mark.parametrize("model", [None, 5, ["tiny"]], ids=str)
def test_a_model_is_a_name_or_a_folder(model: Any) -> None:
    with pytest.raises(InvalidRequest, match="a name or a folder") as caught:
        LLM(model)
    assert caught.value.param == "model"


def test_a_context_is_not_negative() -> None:
    model = helexa.load_model("tiny", device="cpu")
    with pytest.raises(ValueError, match="not -1"):
        model.compute_logits([1], model.new_cache(tokens=16), context=-1)
