from __future__ import annotations

from openai.types import Model

from helexa.protocol.openai.models import model_list


def test_the_list_of_models() -> None:
    listed = model_list([("o/n", 5)])
    assert listed["object"] == "list"
    assert listed["data"] == [{"id": "o/n", "object": "model", "created": 5, "owned_by": "helexa"}]
    Model.model_validate(listed["data"][0])
    assert model_list([]) == {"object": "list", "data": []}
