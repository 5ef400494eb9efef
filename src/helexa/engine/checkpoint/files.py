"""The files of a model folder that are not weights, and what may be told about one that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helexa.errors import CheckpointError

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, or "weights", the bytes done and the bytes in all (None: unknown)."""
KERNELS = "kernels"
"""What progress calls compiling; it counts kernels, not bytes."""

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Where the text layer's files are; None for one that the model does not have.

    ``gguf`` are the metadata of a GGUF file that are about text (`tokenizer.*`).
    """

    tokenizer_json: Path | None = None
    tokenizer_config: Path | None = None
    special_tokens_map: Path | None = None
    chat_template: Path | None = None
    chat_template_json: Path | None = None
    preprocessor_config: Path | None = None
    gguf: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, folder: Path) -> TokenizerFiles:
        """The files present in ``folder``."""

        def present(name: str) -> Path | None:
            path = folder / name
            with reading(path):
                return path if path.is_file() else None

        return cls(
            tokenizer_json=present("tokenizer.json"),
            tokenizer_config=present("tokenizer_config.json"),
            special_tokens_map=present("special_tokens_map.json"),
            chat_template=present("chat_template.jinja"),
            chat_template_json=present("chat_template.json"),
            preprocessor_config=present("preprocessor_config.json"),
        )


def read_text(path: Path) -> str | None:
    """The file's text, None if there is no such file, or if it is no text.

    Raises CheckpointError for a file that is there but cannot be read.
    """
    with reading(path):
        try:
            return path.read_text("utf-8") if path.is_file() else None
        except UnicodeDecodeError:
            return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says against reading ``path``, or below it, into a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot read {error.filename or path}: {error.strerror or error}",
            hint="a model's files must be readable: see who owns them and who may read them",
        ) from error
