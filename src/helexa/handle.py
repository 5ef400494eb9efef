"""What `LLM` and `AsyncLLM` share: their options, what they know, how they are asked."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Never, cast

from helexa.chat_options import ChatOptions, Message
from helexa.engine.checkpoint.files import Progress
from helexa.engine.config import EngineConfig, switches, uses_templates
from helexa.engine.outputs import EngineStatus
from helexa.engine.params import SamplingParams, suggestion
from helexa.errors import EngineClosed, InvalidRequest
from helexa.loaded import (
    Conversation,
    Job,
    LoadedModel,
    ModelInfo,
    Prompt,
    check_prompt,
    placed,
    token_ids,
)
from helexa.opening import MakeHost, Source, open_model, process_host, thread_host
from helexa.progress import counting_bar, loading_bars

HOSTS: Mapping[str, MakeHost] = MappingProxyType({"thread": thread_host, "process": process_host})


def check_options(model: object, host: str, progress: object) -> None:
    """Raise InvalidRequest for what no later step would name."""
    if not isinstance(model, str | Path):
        raise InvalidRequest(
            f"model must be a name or a folder, not {model!r:.80}",
            param="model",
            hint='for example LLM("tiny")',
        )
    if host not in HOSTS:
        raise InvalidRequest(
            f"host must be one of {', '.join(HOSTS)}, not {host!r:.80}", param="host"
        )
    if progress is not None and not callable(progress):
        raise InvalidRequest(
            f"progress must be a function of (name, done, total), not {progress!r:.80}",
            param="progress",
        )


class Handle:
    """What `LLM` and `AsyncLLM` share: options in, jobs out, and how they describe themselves.

    ``model`` is ``"tiny"`` (ships with helexa), a folder, or a Hugging Face id ``org/name``.

    device                cpu, cuda, cuda:N, or auto: the first GPU, else the CPU
    dtype                 float32, bfloat16, float16, or auto: what checkpoint and device suggest
    quant                 quantise at load: q8_0, q6_k, q5_k, q4_k, q4_0, …; None: as they are; of
                          GGUF: part of the name of one of several files; None: the first of them
    compile               compile kernels for this CPU when loading, with its C++ compiler: slow
                          once, then faster with plain weights and those in blocks (GGUF, or
                          ``quant``), not with AWQ, GPTQ or FP8; a GPU needs none
    max_batch             sequences that run at once; more wait their turn
    max_context           longest sequence in tokens, prompt and answer; None: the model's own limit
    kv_memory_mb          memory for the KV cache in MiB; None: room for max_batch sequences of
                          kv_context_tokens, as far as the free memory goes
    kv_context_tokens     context that one sequence is planned to use, in tokens, when deriving it
    block_size            tokens per page of the KV cache
    prefill_chunk_tokens  prompt tokens computed per step beside the running answers
    prefix_cache          reuse what earlier prompts and answers have in common with a new one
    prefix_cache_mb       memory for that beyond the running sequences' share, in MiB, at most four
                          times that share; 0: no reuse
    max_entries           states kept by models that need more than pages to reuse; 0: no reuse
    chat_template         a jinja template that replaces the model's own
    revision, cache_dir, offline, token   how the hub is used
    drafter               "lookup" guesses tokens that stood in the prompt or the answer before, and
                          has the model check several at once: the same answers, sooner where they
                          repeat or quote; None: only for requests that set `speculative`
    draft_len             tokens guessed at a time, at most; 0: none, whatever a request sets
    host                  "thread", or "process": the model in a child process, which returns every
                          byte when it is closed and whose death leaves this process unharmed
    progress              called with (name, bytes done, bytes total); None: bars on a terminal
    """

    def __init__(
        self,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        quant: str | None = None,
        compile: bool = False,
        max_batch: int = 8,
        max_context: int | None = None,
        kv_memory_mb: int | None = None,
        kv_context_tokens: int = 32768,
        block_size: int = 16,
        prefill_chunk_tokens: int = 512,
        prefix_cache: bool = True,
        prefix_cache_mb: int = 1024,
        max_entries: int = 8,
        chat_template: str | None = None,
        revision: str = "main",
        cache_dir: str | Path | None = None,
        offline: bool = False,
        token: str | None = None,
        drafter: str | None = None,
        draft_len: int = 4,
        host: str = "thread",
        progress: Progress | None = None,
        **unknown: Never,
    ) -> None:
        for name in unknown:
            known = list(inspect.signature(type(self)).parameters)[:-1]
            raise TypeError(f"{type(self).__name__} takes no {name!r}; {suggestion(name, known)}")
        check_options(model, host, progress)
        self._source = Source(
            model,
            revision,
            cache_dir,
            offline,
            token,
            chat_template,
            use_template=uses_templates(os.environ),
        )
        self._config = EngineConfig(
            device=device,
            dtype=dtype,
            quant=quant,
            compile=compile,
            max_batch=max_batch,
            max_context=max_context,
            kv_memory_mb=kv_memory_mb,
            kv_context_tokens=kv_context_tokens,
            block_size=block_size,
            prefill_chunk_tokens=prefill_chunk_tokens,
            prefix_cache=prefix_cache,
            prefix_cache_mb=prefix_cache_mb,
            max_entries=max_entries,
            drafter=drafter,
            draft_len=draft_len,
            disabled=switches(os.environ),
        )
        self._make_host = HOSTS[host]
        self._progress = progress
        self._loaded: LoadedModel | None = None
        self._closed = False
        self._opening = threading.Lock()
        self._deciding = threading.Lock()  # whether what was loaded is still wanted
        self._constructed()

    def _constructed(self) -> None:
        """What is left to do once the options are known to be good."""

    def _open(self) -> None:
        """Load the model, once, however many ask for it at the same time."""
        with self._opening:
            self._refuse_if_closed()
            if self._loaded is None:
                with loading_bars(self._progress) as progress:
                    loaded = open_model(self._source, self._config, progress, self._make_host)
                with self._deciding:
                    if not self._closed:
                        self._loaded = loaded
                if self._loaded is None:  # it was closed meanwhile
                    loaded.close()
                    self._refuse_if_closed()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineClosed(
                f"this {type(self).__name__} was closed, and does not open again",
                hint=f"make a new one: {type(self).__name__}({str(self._source.model)!r})",
            )

    def _close(self) -> None:
        """End the model for good, also one that is being loaded."""
        with self._deciding:
            self._closed = True
        if self._loaded is not None:
            self._loaded.close()

    @property
    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise EngineClosed(
                f"{type(self).__name__}({str(self._source.model)!r}) is not open",
                hint="use it inside its `with` block, or make a new one",
            )
        return self._loaded

    @property
    def info(self) -> ModelInfo:
        """What the loaded model is."""
        return self._model.info

    @property
    def status(self) -> EngineStatus:
        """The engine at its last step; never waits for it."""
        return self._model.status()

    def stats(self) -> EngineStatus:
        """Queue, KV cache, prefix cache and speed at the engine's last step."""
        return self.status

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        return self._model.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def detokenize(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        known = token_ids(ids)
        if known is None:
            raise InvalidRequest(
                f"ids must be a list of token ids, not {ids!r:.80}",
                param="ids",
                hint="pass what tokenize() returned, or an answer's token_ids",
            )
        return self._model.tokenizer.decode(known, skip_special_tokens=skip_special_tokens)

    def count_tokens(self, prompt: str | Sequence[int] | Sequence[Message], **chat: Any) -> int:
        """How many tokens a text, a list of token ids, or a rendered conversation has as a prompt.

        ``chat`` takes `render`'s options (``tools``, ``enable_thinking``, …).
        """
        if isinstance(prompt, str):
            return len(self.tokenize(prompt))
        if prompt and (ids := token_ids(prompt)) is not None:
            return len(ids)
        text = self.render(cast("Sequence[Message]", prompt), **chat)
        return len(self.tokenize(text, add_special_tokens=False))

    def render(self, messages: Conversation, **chat: Any) -> str:
        """The exact text that `chat` would send to the model.

        ``chat`` takes `chat`'s options beside the sampling parameters, of which ``tools``,
        ``tool_choice``, ``enable_thinking`` and ``template_kwargs`` shape the prompt.
        """
        return self._model.render(messages, ChatOptions.of(chat))

    def _text_job(self, prompt: object, params: SamplingParams) -> Job:
        return self._model.text_job(check_prompt(prompt), params)

    def _chat_job(
        self, messages: Conversation, params: SamplingParams, options: ChatOptions
    ) -> Job:
        return self._model.chat_job(messages, params, options)

    def _text_jobs(
        self, prompts: Sequence[Prompt], params: SamplingParams, *, batch: bool
    ) -> list[Job]:
        """One job for each prompt; in a ``batch``, errors say which one."""
        name = "prompt" if batch else None
        return _numbered(lambda prompt: self._text_job(prompt, params), prompts, name)

    def _chat_jobs(
        self,
        chats: Sequence[Conversation],
        params: SamplingParams,
        options: ChatOptions,
        *,
        batch: bool,
    ) -> list[Job]:
        name = "messages" if batch else None
        return _numbered(lambda chat: self._chat_job(chat, params, options), chats, name)

    def __reduce__(self) -> Never:
        kind = type(self).__name__
        raise TypeError(f"this {kind} cannot be pickled or copied: make one where it is needed")

    def __repr__(self) -> str:
        name = f"{type(self).__name__}({str(self._source.model)!r}"
        if self._loaded is None:
            return f"{name}, not open)"
        if self._closed:
            return f"{name}, closed)"
        info = self._loaded.info
        return (
            f"{name}, {info.model_type}, {_short(info.parameters)} parameters, {info.dtype} on "
            f"{info.device}, context {info.max_context} tokens, "
            f"KV cache {info.kv_capacity_tokens} tokens)"
        )


def merged_params(params: SamplingParams | None, overrides: dict[str, Any]) -> SamplingParams:
    if params is not None and not isinstance(params, SamplingParams):
        raise InvalidRequest(
            f"params must be a SamplingParams, not {type(params).__name__}",
            param="params",
            hint="pass single parameters by name: max_tokens=64, temperature=0.2",
        )
    refuse_progress(overrides)
    merged = (params or SamplingParams()).override(**overrides)
    if merged.temperature is not None and merged.temperature < 0:  # greedy on the wire: here a slip
        raise InvalidRequest(
            f"temperature must be at least 0, not {merged.temperature}",
            param="temperature",
            hint="0 always takes the likeliest token",
        )
    return merged


def refuse_progress(options: Mapping[str, Any]) -> None:
    """TypeError if a stream is asked for a bar."""
    if "progress" in options:
        raise TypeError(
            "'progress' shows a bar over a list of prompts; a stream has none, leave it out"
        )


def answers_bar(
    jobs: Sequence[Job], progress: bool | None
) -> AbstractContextManager[Callable[[int], None]]:
    """The bar over the answers of some jobs (see `counting_bar`)."""
    return counting_bar("answers", sum(job.params.n for job in jobs), show=progress)


def single(job: Job) -> Job:
    if job.params.n != 1:
        raise InvalidRequest(
            f"a stream carries one answer, n is {job.params.n}",
            param="n",
            hint="use generate() or chat() for several answers, or open several streams",
        )
    return job


def _numbered(make: Callable[[Any], Job], items: Sequence[Any], name: str | None) -> list[Job]:
    """A job of each item, called ``name[0]``, ``name[1]``, … in errors; None: nothing."""
    jobs = []
    for index, item in enumerate(items):
        place = None if name is None else f"{name}[{index}]"
        jobs.append(replace(placed(make, item, place), place=place))
    return jobs


def _short(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
