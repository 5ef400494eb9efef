"""Types of request fields, and the one way to parse a body.

Shape and value are two things: what a model here refuses is of the wrong JSON type and answers 422;
values are checked when a request is turned into a call, and answer 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from helexa.errors import InvalidRequest
from helexa.refusals import InvalidBody

PLACED: Final = "placed"


class Body(BaseModel):
    """A JSON object of a request: null counts as absent, unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong_shape("must be a JSON object")
        return {key: item for key, item in value.items() if item is not None}


AnyBody = TypeVar("AnyBody", bound=BaseModel)


def parse(kind: type[AnyBody], value: Any) -> AnyBody:
    """Read a decoded JSON value; InvalidBody names the first field that is wrong in ``param``.

    Messages never repeat what was sent: they go to logs.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == PLACED:
        raise InvalidBody(first["msg"], param=first["ctx"]["param"])
    param = path_text(first["loc"])
    message = first["msg"] if first["type"] != "missing" else "is missing"
    where = param or "the request body"
    raise InvalidBody(f"{where}: {message[0].lower()}{message[1:]}", param=param)


def path_text(path: tuple[int | str, ...]) -> str | None:
    """A place in a body the way people write it: ``messages[1].content``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or None


def wrong_shape(message: str) -> PydanticCustomError:
    """For validators: the value is not of the type that it must be."""
    return PydanticCustomError("wrong_shape", "{fact}", {"fact": message})


def placed(error: InvalidRequest) -> PydanticCustomError:
    """For validators: the error of an inner `parse`, which knows its field itself."""
    return PydanticCustomError(PLACED, "{fact}", {"fact": str(error), "param": error.param})


def whole_number(value: Any, least: int = 0) -> int:
    """A JSON integer of at least ``least``; 2.0 is one, 1.5 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong_shape(f"must be a whole number of at least {least}")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise wrong_shape("must be a string or a list of strings")
    return tuple(texts)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_shape("must be an object")
    return value


Text = StrictStr
Flag = StrictBool
Count = Annotated[int, PlainValidator(whole_number)]
TopK = Annotated[int, PlainValidator(lambda value: whole_number(value, -1))]
Number = Annotated[float, Field(strict=True)]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops)]
Object = Annotated[dict[str, Any], PlainValidator(_object)]
