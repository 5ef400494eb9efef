"""What a model is called, and how it is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.errors import InvalidRequest
from helexa.neuron.ids import ModelId, ModelSpec, find_slot
from helexa.refusals import InvalidBody


@pytest.mark.parametrize(
    ("text", "id", "qualified"),
    [
        ("huggingface:o/n", ModelId("huggingface", "o", "n"), "huggingface:o/n"),
        ("o/n", ModelId(None, "o", "n"), "huggingface:o/n"),
        ("o/a/b", ModelId(None, "o", "a/b"), "huggingface:o/a/b"),
        ("zz:o/n", ModelId("zz", "o", "n"), "zz:o/n"),
    ],
)
def test_n039_ids_ok(text: str, id: ModelId, qualified: str) -> None:
    assert ModelId.parse(text) == id
    assert str(id) == text
    assert str(id.qualified("huggingface")) == qualified
    assert ModelId.from_json(json.loads(json.dumps(id.to_json()))) == id


@pytest.mark.parametrize(
    "text",
    [
        *("", "n", "s:n", ":o/n", "a/b:o/n", "/n", "o/", "o/n:x", "o/..", "o/.", "../n", "s:../n"),
        *("o/a/../b", "o//n", "o/a/", "o\\x/n", "o/n\0", "o/n\n", "o /n", "s\n:o/n"),
    ],
)
def test_n040_ids_bad(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ModelId.parse(text)
    assert repr(text) in refusal.value.message
    assert "[scheme:]org/name" in str(refusal.value)


@pytest.mark.parametrize(
    ("wanted", "loaded", "found"),
    [
        ("o/n", ["huggingface:o/n"], "huggingface:o/n"),
        ("huggingface:o/n", ["o/n"], "o/n"),
        ("o/n", ["zz:o/n"], "zz:o/n"),
        ("o/n", ["zz:o/n", "yy:o/n"], None),
        ("o/n", ["zz:o/n", "o/n"], "o/n"),
        ("o/n", ["zz:o/n", "huggingface:o/n"], "huggingface:o/n"),
        ("yy:o/n", ["zz:o/n"], None),
        ("o/m", ["o/n"], None),
        ("nonsense", ["o/n"], None),
    ],
)
def test_n052_spelling(wanted: str, loaded: list[str], found: str | None) -> None:
    assert find_slot(wanted, loaded, "huggingface") == found


def test_a_spec_is_what_was_sent() -> None:
    sent: dict[str, Any] = {"model_id": "o/n", "quant": "q6k", "tensor_parallel": 2}
    spec = ModelSpec.from_json({**sent, "devices": None, "some_key": 1})
    assert spec == ModelSpec(model_id="o/n", quant="q6k", tensor_parallel=2)
    assert spec.to_json() == sent
    for more in ({"devices": [1, 0]}, {"devices": []}, {"harness": "candle", "revision": "main"}):
        assert ModelSpec.from_json(sent | more).to_json() == sent | more
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec(model_id="o/n", revision="v1").to_json() == {
        "model_id": "o/n",
        "revision": "v1",
    }


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({}, "model_id: is missing"),
        ({"model_id": 3}, "model_id: expected a string, got 3"),
        ({"model_id": "o/n", "tensor_parallel": 0}, "tensor_parallel: expected a positive integer"),
        ({"model_id": "o/n", "tensor_parallel": True}, "tensor_parallel: expected a positive"),
        ({"model_id": "o/n", "devices": [0, -1]}, "devices: expected a list of non-negative"),
        ({"model_id": "o/n", "kv_mb": 1.5}, "kv_mb: expected a positive integer, got 1.5"),
        ({"model_id": "o/n", "revision": ""}, 'revision: expected a non-empty string, got ""'),
    ],
)
def test_a_spec_of_a_wrong_shape_names_its_key(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidBody) as refusal:
        ModelSpec.from_json(raw)
    assert text in refusal.value.message
    assert refusal.value.param == text.partition(":")[0]


@pytest.mark.parametrize("raw", [[], "o/n", None, 3])
def test_a_spec_is_an_object(raw: object) -> None:
    with pytest.raises(InvalidBody, match="a JSON object"):
        ModelSpec.from_json(raw)


@pytest.mark.parametrize(
    ("values", "gpus", "place"),
    [
        ({}, [0, 1], (0,)),
        ({"tensor_parallel": 2}, [0, 1], (0, 1)),
        ({"devices": ()}, [0, 1], (0,)),
        ({"tensor_parallel": 2, "devices": (3, 1)}, [0, 1, 2, 3], (3, 1)),
        ({"devices": (7,)}, [], (0,)),
        ({"tensor_parallel": 2}, [], (0,)),
    ],
    ids=["default", "two", "empty list", "chosen", "cpu ignores them", "cpu ranks"],
)
def test_where_a_model_goes(
    values: dict[str, Any], gpus: list[int], place: tuple[int, ...]
) -> None:
    assert ModelSpec(model_id="o/n", **values).place(gpus) == place


@pytest.mark.parametrize(
    ("values", "gpus", "text"),
    [
        ({"devices": (0, 1)}, [], "devices lists 2 entries, tensor_parallel is 1"),
        ({"devices": (5,)}, [0, 1], "unknown device 5; this host has 0, 1"),
        ({"devices": (0, 0), "tensor_parallel": 2}, [0, 1], "twice"),
    ],
)
def test_n048_bad_devices(values: dict[str, Any], gpus: list[int], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        ModelSpec(model_id="o/n", **values).place(gpus)
