"""Using helexa wrongly: every case ends in a typed error that says what to do.

Each row is something people really do. The text must name the culprit and a way out; what a
newcomer reads is compared here, word for word where the words matter.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import helexa
from helexa import LLM, SamplingParams
from helexa.errors import (
    CapacityError,
    CheckpointError,
    EngineClosed,
    HelexaError,
    InvalidRequest,
    PreflightError,
    PromptTooLong,
    TemplateError,
    UnsupportedGrammar,
    UnsupportedModel,
)

TINY = Path(helexa.__file__).parent / "builtin" / "tiny"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", max_batch=2) as llm:
        yield llm


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of the built-in model to break."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def damage_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def says(error: BaseException, *parts: str) -> None:
    text = str(error)
    for part in parts:
        assert part in text, f"{part!r} is not in: {text}"


# -- loading ---------------------------------------------------------------------------------------


def test_01_a_path_that_does_not_exist() -> None:
    with pytest.raises(HelexaError) as caught:
        LLM("./no/such/folder")
    says(caught.value, "no/such/folder")


def test_02_an_id_that_is_neither_cached_nor_reachable(tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        LLM("nobody/no-such-model", offline=True, cache_dir=tmp_path)
    assert caught.value.kind == "repo_fetch_failed"
    says(caught.value, "nobody/no-such-model", "offline")


def test_03_a_name_that_is_no_id() -> None:
    with pytest.raises(HelexaError) as caught:
        LLM("qwen3")
    says(caught.value, "qwen3", "org/name")


def test_04_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        LLM(tmp_path)
    assert caught.value.kind == "empty_repo"
    says(caught.value, str(tmp_path), "safetensors")


def test_04_a_folder_without_config(broken: Path) -> None:
    (broken / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        LLM(broken)
    says(caught.value, "config.json", str(broken))


def test_05_a_config_that_is_not_json(broken: Path) -> None:
    (broken / "config.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        LLM(broken)
    says(caught.value, "config.json", "not valid JSON")


def test_06_an_architecture_that_is_not_built(broken: Path) -> None:
    damage_config(broken, model_type="fictional_arch_99")
    with pytest.raises(UnsupportedModel) as caught:
        LLM(broken)
    says(caught.value, "fictional_arch_99", "supported: [llama, qwen3, ")


def test_07_weights_cut_short(broken: Path) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError) as caught:
        LLM(broken)
    says(caught.value, "model.safetensors")


def test_08_weights_of_another_shape(broken: Path) -> None:
    damage_config(broken, intermediate_size=100)
    with pytest.raises(CheckpointError) as caught:
        LLM(broken)
    says(caught.value, "mlp", "100")


def test_09_no_weights_at_all(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(HelexaError) as caught:
        LLM(broken)
    says(caught.value, "safetensors", str(broken))


def test_10_no_tokenizer(broken: Path) -> None:
    (broken / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        LLM(broken)
    says(caught.value, "tokenizer.json")


def test_11_a_device_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest) as caught:
        LLM("tiny", device="cuda:63")
    assert caught.value.param == "device"
    says(caught.value, "cuda:63", "cpu")


def test_12_a_dtype_that_does_not_exist() -> None:
    with pytest.raises(InvalidRequest) as caught:
        LLM("tiny", dtype="fp4")
    assert caught.value.param == "dtype"
    says(caught.value, "fp4", "float32")


def test_13_more_memory_than_there_is() -> None:
    with pytest.raises(CapacityError) as caught:
        LLM("tiny", kv_memory_mb=10**9)
    assert caught.value.required_mb >= 10**9 > caught.value.budget_mb
    says(caught.value, "kv_memory_mb")


def test_14_an_option_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="LLM takes no 'max_contxt'; did you mean 'max_context'"):
        LLM("tiny", max_contxt=100)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("made", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_in_use_cannot_be_copied(llm: LLM, made: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="this LLM cannot be pickled or copied"):
        made(llm)


def test_15_a_batch_of_nothing() -> None:
    with pytest.raises(InvalidRequest) as caught:
        LLM("tiny", max_batch=0)
    assert caught.value.param == "max_batch"


# -- asking ----------------------------------------------------------------------------------------


def test_16_a_prompt_longer_than_the_context(llm: LLM) -> None:
    with pytest.raises(PromptTooLong) as caught:
        llm.generate("word " * 20_000)
    assert caught.value.prompt_len > caught.value.max
    says(caught.value, "shorten")
    assert "max_context" not in caught.value.hint  # it is the model's own limit
    with LLM("tiny", device="cpu", max_context=64) as short:
        with pytest.raises(PromptTooLong) as caught:
            short.generate("word " * 100)
        says(caught.value, "max_context")


def test_17_an_empty_prompt(llm: LLM) -> None:
    for empty in ("", []):
        with pytest.raises(InvalidRequest) as caught:
            llm.generate(empty)
        assert caught.value.code == "empty_prompt"


def test_18_an_empty_conversation(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat([])
    says(caught.value, "messages is empty")


WRONG_PARAMS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature is text": ({"temperature": "hot"}, "temperature"),
    "temperature is negative": ({"temperature": -0.5}, "temperature"),
    "temperature is infinite": ({"temperature": float("inf")}, "temperature"),
    "top_p is text": ({"top_p": "x"}, "top_p"),
    "top_k is negative": ({"top_k": -7}, "top_k"),
    "min_p above one": ({"min_p": 2}, "min_p"),
    "penalty of zero": ({"repetition_penalty": 0}, "repetition_penalty"),
    "negative seed": ({"seed": -1}, "seed"),
    "negative max_tokens": ({"max_tokens": -1}, "max_tokens"),
    "stop is a number": ({"stop": 3}, "stop"),
    "stop holds a number": ({"stop": ["a", 3]}, "stop"),
    "17 stops": ({"stop": [str(i) for i in range(17)]}, "stop"),
    "an empty stop": ({"stop": [""]}, "stop"),
    "a stop token that does not exist": ({"stop_token_ids": [10**6]}, "stop_token_ids"),
    "a bias for no token": ({"logit_bias": {10**6: 1}}, "logit_bias"),
    "a bias too strong": ({"logit_bias": {1: 1000}}, "logit_bias"),
    "presence out of range": ({"presence_penalty": 3}, "presence_penalty"),
    "more logprobs than allowed": ({"logprobs": 21}, "logprobs"),
    "no choices": ({"n": 0}, "n"),
    "min above max": ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
}


@pytest.mark.parametrize(("given", "param"), WRONG_PARAMS.values(), ids=WRONG_PARAMS.keys())
def test_19_a_sampling_parameter_out_of_range(llm: LLM, given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat("hi", **given)
    assert caught.value.param == param
    says(caught.value, param)


def test_20_a_parameter_that_does_not_exist(llm: LLM) -> None:
    with pytest.raises(TypeError, match=r"temprature.*temperature"):
        llm.chat("hi", temprature=0.5)


def test_21_messages_given_to_generate(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([{"role": "user", "content": "hi"}])  # type: ignore[call-overload]  # the mistake under test
    says(caught.value, "chat()")


def test_22_a_message_without_role(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat([{"role": "user", "content": "hi"}, {"content": "there"}])
    assert caught.value.param == "messages[1]"


def test_23_params_as_a_dict(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat("hi", {"temperature": 0})  # type: ignore[call-overload]  # the mistake under test
    says(caught.value, "SamplingParams", "by name")


def test_24_token_ids_that_the_model_does_not_have(llm: LLM) -> None:
    for ids in ([5, -1], [5, 10**7]):
        with pytest.raises(InvalidRequest) as caught:
            llm.generate(ids)
        says(caught.value, str(ids[1]))


def test_24b_bytes_are_not_token_ids(llm: LLM) -> None:
    for given in (b"hello", [b"hello"]):
        with pytest.raises(InvalidRequest) as caught:
            llm.generate(given)  # type: ignore[arg-type]  # the mistake under test
        says(caught.value, "bytes", "string")


def test_25_half_an_emoji(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate("a\ud83d")
    says(caught.value, "character 1")


def test_26_several_choices_in_one_stream(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.stream("hi", n=2)
    assert caught.value.param == "n"


def test_27_output_constraints_that_cannot_be_enforced(llm: LLM) -> None:
    with pytest.raises(UnsupportedGrammar) as caught:
        llm.chat("hi", response_format={"type": "yaml"})
    says(caught.value, "'yaml'", "json_schema")
    with pytest.raises(InvalidRequest) as wrong:
        llm.chat("hi", tool_choice="required")
    assert wrong.value.param == "tool_choice"


def test_28_tools_of_the_wrong_shape(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat("hi", tools=["get_weather"])  # type: ignore[call-overload]  # the mistake under test
    assert caught.value.param is not None and caught.value.param.startswith("tools")


def test_28b_template_variables_of_the_wrong_shape(llm: LLM) -> None:
    for given in (5, ["enable_thinking"], {1: 2}):
        with pytest.raises(InvalidRequest) as caught:
            llm.chat("hi", template_kwargs=given)  # type: ignore[call-overload]  # the mistake under test
        assert caught.value.param == "template_kwargs"


def test_28c_thinking_that_is_neither_on_nor_off(llm: LLM) -> None:
    for given in ("no", 0):
        with pytest.raises(InvalidRequest) as caught:
            llm.chat("hi", enable_thinking=given)  # type: ignore[call-overload]  # the mistake under test
        assert caught.value.param == "enable_thinking"
        says(caught.value, repr(given), "True or False")


def test_28d_sampling_given_to_render(llm: LLM) -> None:
    for ask in (llm.render, llm.count_tokens):
        with pytest.raises(TypeError) as error:
            ask([{"role": "user", "content": "hi"}], temperature=0.3)
        says(error.value, "temperature", "tools", "enable_thinking", "template_kwargs")


def test_28e_a_bar_asked_of_a_stream(llm: LLM) -> None:
    for ask in (llm.stream, llm.stream_chat):
        with pytest.raises(TypeError) as error:
            ask("hi", progress=True)
        says(error.value, "progress", "a stream has none")


BATCHES: dict[str, tuple[str, list[Any], str]] = {
    "not a prompt": ("generate", ["ok", 5], "prompt[1]"),
    "empty": ("generate", ["ok", "fine", ""], "prompt[2]"),
    "no ids": ("generate", [[5], []], "prompt[1]"),
    "unknown id": ("generate", [[5], [10**7]], "prompt[1]"),
    "half an emoji": ("generate", ["ok", "a\ud83d"], "prompt[1]"),
    "too long": ("generate", ["ok", "word " * 20_000], "prompt[1]"),
    "no messages": ("chat", ["ok", []], "messages[1]"),
    "no role": ("chat", [[{"role": "user", "content": "hi"}, {}]], "messages[0][1]"),
    "conversation too long": ("chat", ["ok", "word " * 20_000], "messages[1]"),
}


@pytest.mark.parametrize(("method", "given", "place"), BATCHES.values(), ids=BATCHES.keys())
def test_28f_one_wrong_prompt_of_a_list(
    llm: LLM, method: str, given: list[Any], place: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(llm, method)(given, max_tokens=2)
    assert caught.value.param == place
    assert str(caught.value).startswith(place.removesuffix("[0][1]"))
    assert caught.value.message.startswith(place.removesuffix("[0][1]"))


def test_28g_what_a_list_shares_is_not_one_prompts_fault(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate(["ok", "fine"], stop_token_ids=[10**7])
    assert caught.value.param == "stop_token_ids"
    assert not str(caught.value).startswith("prompt")


def test_28h_a_template_that_is_none(tmp_path: Path) -> None:
    for given in ("chat.jinja", 5, tmp_path / "chat.jinja"):
        with pytest.raises(InvalidRequest) as caught:
            LLM("tiny", chat_template=given)  # type: ignore[arg-type]  # the mistake under test
        assert caught.value.param == "chat_template"
        says(caught.value, "text", "read_text()")


def test_29_a_template_that_refuses(broken: Path) -> None:
    template = "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}hi"
    with LLM(broken, chat_template=template, max_batch=1) as llm:
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        with pytest.raises(TemplateError) as caught:
            llm.chat("hi", tools=[tool])
    says(caught.value, "no tools here")


def test_30_a_model_that_was_closed() -> None:
    llm = LLM("tiny", max_batch=1)
    llm.close()
    calls: list[Callable[[], object]] = [
        lambda: llm.chat("hi"),
        lambda: llm.stream("hi"),
        lambda: llm.generate(["a", "b"]),
    ]
    for call in calls:
        with pytest.raises(EngineClosed, match="load it again"):
            call()


def test_31_a_wrong_request_leaves_the_model_in_order(llm: LLM) -> None:
    before = llm.chat("What is 2 + 3?", temperature=0, seed=1).text
    with pytest.raises(InvalidRequest):
        llm.chat("hi", SamplingParams(stop_token_ids=[10**6]))
    assert llm.chat("What is 2 + 3?", temperature=0, seed=1).text == before
    assert llm.stats().running == 0
