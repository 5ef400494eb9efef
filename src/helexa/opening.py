"""From the name of a model to one that is ready to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.files import Progress
from helexa.engine.checkpoint.reference import Reference, Variant
from helexa.engine.config import EngineConfig, ModelConfig
from helexa.engine.host import Host, ThreadHost
from helexa.engine.outputs import EngineFacts
from helexa.engine.quantization_config import refuse_quant
from helexa.loaded import LoadedModel, ModelInfo
from helexa.text.chat_template import ChatTemplate, check_template
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.parsing.markers import Markers, probe_markers
from helexa.text.tokenizer import Tokenizer, demand_tokenizer

if TYPE_CHECKING:
    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.process.host import ProcessHost

MakeHost = Callable[["Checkpoint", EngineConfig, "Progress | None", GrammarFactory], Host]
CHILD = "helexa.child:build"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from and how it may be fetched.

    Without ``use_template`` conversations are written as ChatML, whatever the model has.
    """

    model: str | Path | Reference
    revision: str = "main"
    cache_dir: str | Path | None = None
    offline: bool = False
    token: str | None = None
    chat_template: str | None = None
    use_template: bool = True

    def __post_init__(self) -> None:
        if self.chat_template is not None:  # before anything is fetched
            check_template(self.chat_template)


def open_model(
    source: Source,
    config: EngineConfig,
    progress: Progress | None,
    make_host: MakeHost | None = None,
) -> LoadedModel:
    """Find, read and load a model, on a thread unless ``make_host`` says where.

    Blocks for as long as that takes. Raises LoadError (a PreflightError, DownloadError,
    CheckpointError or UnsupportedModel), CapacityError if its memory does not fit, InvalidRequest
    for a wrong option.
    """
    from helexa.engine.checkpoint.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(
        Variant(source.model, config.quant, demand_tokenizer),
        revision=source.revision,
        cache_dir=source.cache_dir,
        offline=source.offline,
        token=source.token,
        progress=progress,
    )
    try:
        if checkpoint.quantisable:  # a child knows the model by its folder alone
            refuse_quant(checkpoint.id, checkpoint.config.quantization, config.quant)
        files = checkpoint.tokenizer_files()
        tokenizer = Tokenizer.from_files(files, source=checkpoint.id)
        template = ChatTemplate.load(
            files, tokenizer, explicit=source.chat_template, enabled=source.use_template
        )
        markers = probe_markers(tokenizer)
        grammars = GrammarFactory(tokenizer, markers)
        host = (make_host or thread_host)(checkpoint, config, progress, grammars)
        facts = host.start()
        info = _info(checkpoint.id, checkpoint.config, markers, facts)
    finally:
        checkpoint.close()
    return LoadedModel(tokenizer, template, markers, host, info, grammars)


def thread_host(
    checkpoint: Checkpoint,
    config: EngineConfig,
    progress: Progress | None,
    grammars: GrammarFactory,
) -> ThreadHost:
    """The model on a thread of this process."""
    from helexa.engine.build import build_core

    return ThreadHost(lambda: build_core(checkpoint, config, progress=progress, masks=grammars))


def process_host(
    checkpoint: Checkpoint,
    config: EngineConfig,
    progress: Progress | None,
    grammars: GrammarFactory,
) -> ProcessHost:
    """The model in a child process of this one, of which torch stays out."""
    from helexa.engine.process.children import Nursery
    from helexa.engine.process.host import ProcessHost
    from helexa.engine.process.messages import Build

    nursery = Nursery(warm=False, builder=CHILD)
    order = Build(str(checkpoint.path), config)
    return ProcessHost(order, nursery, report=progress, at_close=nursery.close)


def _info(model_id: str, config: ModelConfig, markers: Markers, facts: EngineFacts) -> ModelInfo:
    return ModelInfo(
        id=model_id,
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        longest_tokens=config.longest_sequence,
        max_context=facts.max_context,
        capabilities=("text",),
        eos_token_ids=facts.end_token_ids,
        reasoning_markers=markers.reasoning_texts,
        tool_markers=markers.tool_texts,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        kv_capacity_tokens=facts.kv_capacity_tokens,
        kv_budget_mb=facts.kv_budget_mb,
        pool_mb=facts.pool_mb,
        parameters=facts.parameters,
        weight_mb=facts.weight_mb,
        dtype=facts.dtype,
        device=facts.device,
    )
