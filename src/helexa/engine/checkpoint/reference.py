"""What a model argument means: the model that ships with helexa, a folder, a file, or a hub id."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helexa.errors import PreflightError

DEFAULT_SCHEME = "huggingface"
BUILTIN_SCHEME = "builtin"
PLAIN_NAME = re.compile(r"(?!\.+$)[0-9A-Za-z._-]{1,128}")
FORMS = "give tiny, a folder, or a model id such as org/name"


@dataclass(frozen=True, slots=True)
class Builtin:
    """A model that ships with the package."""

    name: str

    def __str__(self) -> str:
        return f"{BUILTIN_SCHEME}:{self.name}"


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder with config, weights and tokenizer; ``name`` is what people call the model."""

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return self.name or str(self.path)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file, or any part of a split one; ``name`` is what people call the model."""

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return self.name or str(self.path)


@dataclass(frozen=True, slots=True)
class HubId:
    """A model of a hub; printed as it was written, without a scheme if none was given."""

    scheme: str | None
    org: str
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.repo}" if self.scheme else self.repo

    @property
    def repo(self) -> str:
        """The id within its hub."""
        return f"{self.org}/{self.name}"


Reference = Builtin | LocalFolder | GGUFFile | HubId


@dataclass(frozen=True, slots=True)
class Offer:
    """What is known of a hub's model before any of its weights is fetched.

    ``folder`` holds its small files, None where it is nothing but GGUF; ``measure`` may ask the hub
    how many bytes would be fetched, and returns None if it does not say.
    """

    model: str
    folder: Path | None
    measure: Callable[[], int | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Variant:
    """A model and, where it is several GGUF files, a part of the name of the one that is meant.

    ``judge`` is asked before weights are fetched from a hub, and refuses by raising an error.
    """

    model: str | Path | Reference
    quant: str | None = None
    judge: Callable[[Offer], None] | None = None


Named = str | Path | Reference | Variant
"""Everything that says which model is meant."""


def parse_reference(model: str | Path | Reference) -> Reference:
    """Say what ``model`` names; what exists on disk wins over the same text as a hub id.

    Raises PreflightError of kind `invalid_model_id`. Whether a scheme is known is for the one who
    fetches to say.
    """
    if not isinstance(model, str | Path):
        return model
    text = str(model)
    if text in ("tiny", f"{BUILTIN_SCHEME}:helexa/tiny"):
        return Builtin("helexa/tiny")
    if not text.strip():
        raise invalid(text, "is empty")
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return LocalFolder(path)
        if path.suffix.lower() == ".gguf" and path.is_file():
            return GGUFFile(path)
    except (OSError, RuntimeError) as error:  # too long a name, a link to itself, nobody's home
        raise invalid(text, f"cannot be looked up: {error}") from error
    if isinstance(model, Path) or path.is_absolute():
        raise invalid(text, "is no existing folder")
    return parse_id(text)


def parse_id(text: str) -> HubId:
    """Parse `[scheme:]org/name`."""
    head, colon, tail = text.partition(":")
    scheme, rest = (head, tail) if colon else (None, text)
    if scheme == "":
        raise invalid(text, "has an empty scheme")
    if scheme is not None and "/" in scheme:
        raise invalid(text, "has a `/` in its scheme, or a `:` in its name")
    org, slash, name = rest.partition("/")
    if not slash:
        raise invalid(text, "is no existing folder, and no model id for lack of a `/`")
    if not org or not name:
        raise invalid(text, "has an empty organisation or name")
    if ":" in rest:
        raise invalid(text, "has a `:` in its name")
    if not (PLAIN_NAME.fullmatch(org) and PLAIN_NAME.fullmatch(name)):
        raise invalid(text, "is no existing path, and no name that a hub could have")
    return HubId(scheme, org, name)


def invalid(text: str, why: str) -> PreflightError:
    return PreflightError("invalid_model_id", f"model {text!r} {why}", hint=FORMS)
