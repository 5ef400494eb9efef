"""What the environment sets apart from the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from helexa.engine.config import OFF, switches, uses_templates

STATIC_PROMPT_CAP = 16384
LARGEST_IMAGE_PIXELS = 589824
SMALLEST_IMAGE_PIXELS = 1024
SMALLER_IMAGE_PIXELS = 65536


@dataclass(frozen=True, slots=True)
class Runtime:
    """Settings for a host or an experiment rather than for a file.

    ``context_clamp_tokens`` and ``floor_mb`` are None where nobody has set them.
    """

    prompt_cap_tokens: int = STATIC_PROMPT_CAP
    context_clamp_tokens: int | None = None
    floor_mb: int | None = None
    prefill_chunk_tokens: int = 512
    image_pixels: tuple[int, int] = (SMALLER_IMAGE_PIXELS, LARGEST_IMAGE_PIXELS)
    use_chat_template: bool = True
    step_timeout_s: float = 120.0
    abort_deadline_s: float = 60.0
    poisoned_model: str | None = None
    warm_spare: bool = True
    disabled: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


# Variable, default as text, meaning: the second table of docs/neuron-config.md.
VARIABLES = (
    (
        "NEURON_MAX_PROMPT_TOKENS",
        "16384",
        "longest prompt until a limit has been derived; if set, no derived context is longer",
    ),
    ("NEURON_MIN_FREE_VRAM_MB", "", "if set, takes the place of `min_free_floor_mb`"),
    ("NEURON_PREFILL_CHUNK_TOKENS", "512", "prompt tokens computed in one step"),
    ("NEURON_VISION_MIN_PIXELS", "65536", "smaller images are enlarged to this"),
    ("NEURON_VISION_MAX_PIXELS", "589824", "larger images are reduced to this"),
    ("NEURON_USE_CHAT_TEMPLATE", "on", "`false`, `0`, `no` or `off`: plain ChatML instead"),
    ("NEURON_TP_STEP_TIMEOUT_S", "120", "seconds a step of the engine may take"),
    ("NEURON_TP_ABORT_DEADLINE_S", "60", "seconds a killed process may take to be gone"),
    ("NEURON_WARM_SPARE", "on", "`0` or `false`: no process is started ahead of the next load"),
    ("NEURON_DEBUG_POISON", "", "a model whose first request kills its process, for tests"),
    ("NEURON_FLASH_ATTN", "on", "`0` or `false` disables `flash_attn`"),
    ("NEURON_MOE_FUSED", "on", "`0` or `false` disables `moe_fused`"),
    ("NEURON_GDN_CHUNKED", "on", "`0` or `false` disables `gdn_chunked`"),
    ("NEURON_MROPE", "on", "`0` or `false` disables `mrope`"),
    ("NEURON_BATCHING", "on", "`0` or `false`: one sequence per step"),
    (
        "HELEXA_DISABLE",
        "",
        "[features of the engine](architecture.md#fast-paths) to turn off, separated by commas",
    ),
    ("HELEXA_LOG", "info", "log level, unless `--log-level` is given"),
    ("HELEXA_LOG_FORMAT", "text", "`text` or `json`"),
    ("HELEXA_BUILD_SHA", "", "the commit that `/version` reports"),
)


class Variables:
    """Numbers from the environment; what cannot be used is noted and counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.warnings: list[str] = []

    def get(self, name: str, wanted: str, read: Callable[[str], float | None]) -> float | None:
        text = self.environ.get(name, "").strip()
        if not text:
            return None
        value = read(text)
        if value is None:
            self.warnings.append(f"{name}: expected {wanted}, got {text!r}; it is ignored")
        return value

    def whole(self, name: str, at_least: int = 1) -> int | None:
        """An integer of at least that much, None if not set."""

        def read(text: str) -> int | None:
            return int(text) if text.isdecimal() and int(text) >= at_least else None

        value = self.get(name, f"an integer of at least {at_least}", read)
        return None if value is None else int(value)

    def seconds(self, name: str, default: float) -> float:
        """A number above 0."""

        def read(text: str) -> float | None:
            try:
                value = float(text)
            except ValueError:
                return None
            return value if math.isfinite(value) and value > 0 else None

        value = self.get(name, "a number of seconds above 0", read)
        return default if value is None else value


def read_runtime(environ: Mapping[str, str]) -> Runtime:
    """The settings of an environment; ``warnings`` names variables that could not be used."""
    read = Variables(environ)
    cap = read.whole("NEURON_MAX_PROMPT_TOKENS")
    fewest = read.whole("NEURON_VISION_MIN_PIXELS") or SMALLER_IMAGE_PIXELS
    most = read.whole("NEURON_VISION_MAX_PIXELS") or LARGEST_IMAGE_PIXELS
    most = min(max(most, SMALLEST_IMAGE_PIXELS), LARGEST_IMAGE_PIXELS)
    return Runtime(
        prompt_cap_tokens=cap or STATIC_PROMPT_CAP,
        context_clamp_tokens=cap,
        floor_mb=read.whole("NEURON_MIN_FREE_VRAM_MB", at_least=0),
        prefill_chunk_tokens=read.whole("NEURON_PREFILL_CHUNK_TOKENS") or 512,
        image_pixels=(min(max(fewest, SMALLEST_IMAGE_PIXELS), most), most),
        use_chat_template=uses_templates(environ),
        step_timeout_s=read.seconds("NEURON_TP_STEP_TIMEOUT_S", 120.0),
        abort_deadline_s=read.seconds("NEURON_TP_ABORT_DEADLINE_S", 60.0),
        poisoned_model=environ.get("NEURON_DEBUG_POISON") or None,
        warm_spare=environ.get("NEURON_WARM_SPARE", "").strip().lower() not in OFF,
        disabled=switches(environ),
        warnings=tuple(read.warnings),
    )
