"""What a model is called, and how it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from helexa.daemon.schema import (
    Findings,
    Node,
    read_settings,
    required,
    setting,
    settings_of,
    text,
    whole,
    wholes,
)
from helexa.errors import InvalidRequest
from helexa.refusals import InvalidBody

HARNESS = "candle"
"""What our engine is called on the wire."""

FORM = "a model id is [scheme:]org/name"


@dataclass(frozen=True, slots=True)
class ModelId:
    """`[scheme:]org/name`; the name may have slashes."""

    scheme: str | None
    org: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ModelId:
        """Read an id as a person writes it. Raises InvalidRequest."""
        head, colon, tail = text.partition(":")
        scheme, repo = (head, tail) if colon else (None, text)
        org, slash, name = repo.partition("/")
        if why := flaw(scheme, org if slash else None, name):
            raise InvalidRequest(f"model id {text!r} {why}", param="model_id", hint=FORM)
        return cls(scheme, org, name)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.repo}" if self.scheme else self.repo

    @property
    def repo(self) -> str:
        """The id within its source."""
        return f"{self.org}/{self.name}"

    def qualified(self, default_scheme: str) -> ModelId:
        """The same model with its scheme spelt out."""
        return self if self.scheme else replace(self, scheme=default_scheme)

    def to_json(self) -> dict[str, str | None]:
        return {"scheme": self.scheme, "org": self.org, "name": self.name}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ModelId:
        """Read what `to_json` made. Raises InvalidRequest."""
        scheme = raw.get("scheme")
        prefix = "" if scheme is None else f"{scheme}:"
        return cls.parse(f"{prefix}{raw.get('org', '')}/{raw.get('name', '')}")


def flaw(scheme: str | None, org: str | None, name: str) -> str:
    """What is wrong with the parts of an id, empty if nothing is; ``org`` None: there is no `/`."""
    if scheme == "":
        return "has an empty scheme"
    if scheme is not None and "/" in scheme:
        return "has a `/` in its scheme, or a `:` in its name"
    if org is None:
        return "has no `/`"
    if ":" in org or ":" in name:
        return "has a `:` in its name"
    segments = [org, *name.split("/")]
    if "" in segments:
        return "has an empty organisation or name"
    if "." in segments or ".." in segments:
        return "has a segment `.` or `..`"
    whole_id = "".join([scheme or "", *segments])
    if "\\" in whole_id or " " in whole_id or not whole_id.isprintable():
        return "has a character that no name may have"
    return ""


def same_model(id: ModelId, loaded: Collection[str], default_scheme: str) -> str | None:
    """Which of the ids used at load is this very model, given with its scheme; None: none."""
    equal = (name for name in loaded if ModelId.parse(name).qualified(default_scheme) == id)
    return next(equal, None)


def find_slot(wanted: str, loaded: Collection[str], default_scheme: str) -> str | None:
    """Which of the ids used at load ``wanted`` means, None if none or more than one.

    The same text, an equal qualified id, or a bare `org/name` that fits exactly one of any scheme.
    """
    if wanted in loaded:
        return wanted
    try:
        asked = ModelId.parse(wanted)
    except InvalidRequest:
        return None
    same = same_model(asked.qualified(default_scheme), loaded, default_scheme)
    if same is not None or asked.scheme is not None:
        return same
    fitting = [text for text in loaded if ModelId.parse(text).repo == asked.repo]
    return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model and how it is to be loaded; ``model_id`` is kept as it was given.

    ``sent`` are the keys that a request gave, also those it gave their default.
    """

    model_id: str = required(text(), "which model: `[scheme:]org/name`")
    harness: str = setting(text(), HARNESS, "which engine runs it; there is one")
    quant: str | None = setting(
        text(), None, "a GGUF file by part of its name, or a format to quantise to at load"
    )
    tensor_parallel: int = setting(
        whole(1), 1, "over how many devices it is split; only 1 can be loaded yet"
    )
    devices: tuple[int, ...] | None = setting(
        wholes(), None, "indices of the devices", default_text="0 … tensor_parallel − 1"
    )
    revision: str = setting(text(empty=False), "main", "branch, tag or commit")
    kv_mb: int | None = setting(
        whole(1), None, "MiB of KV cache", default_text="what the seats need, or what is free"
    )
    sent: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def from_json(cls, raw: object) -> ModelSpec:
        """Read a request to load; null counts as absent, unknown keys are ignored.

        Raises InvalidBody.
        """
        if not isinstance(raw, Mapping):
            raise InvalidBody("a load is a JSON object with a model_id")
        found = Findings()
        given = {name: value for name, value in raw.items() if value is not None}
        spec = read_settings(cls, Node.of(given), found)
        if found.problems:
            name, _, _ = found.problems[0].partition(":")
            raise InvalidBody("; ".join(found.problems), param=name)
        return replace(spec, sent=frozenset(given))

    def to_json(self) -> dict[str, Any]:
        """What was asked for; what was left open is left out."""
        asked = {
            name: getattr(self, name)
            for name, entry in settings_of(type(self)).items()
            if name in self.sent or getattr(self, name) != entry.default
        }
        if self.devices is not None:
            asked["devices"] = list(self.devices)
        return asked

    def place(self, gpus: Collection[int]) -> tuple[int, ...]:
        """The devices to load on, (0,) on a host without GPUs. Raises InvalidRequest."""
        asked = self.devices or tuple(range(self.tensor_parallel))
        if len(asked) != self.tensor_parallel:
            raise wrong_devices(
                f"devices lists {len(asked)} entries, tensor_parallel is {self.tensor_parallel}"
            )
        if not gpus:
            return (0,)
        known = ", ".join(map(str, sorted(gpus)))
        for index in asked:
            if index not in gpus:
                raise wrong_devices(f"unknown device {index}; this host has {known}")
        if len(set(asked)) < len(asked):
            raise wrong_devices("devices lists a device twice")
        return asked


def wrong_devices(text: str) -> InvalidRequest:
    return InvalidRequest(text, param="devices")
