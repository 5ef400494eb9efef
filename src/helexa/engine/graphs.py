"""Decode steps that are recorded once and then replayed: one launch in place of hundreds.

A recorded step works on memory that stays where it is. So there is a recording for each of a few
batch sizes and table widths; a step is laid out in the memory of the next larger one, where rows
that no sequence takes are padding, for which kernels read and write nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from helexa.engine.batch import Batch, Computed, Part
from helexa.engine.device_batch import PADDING, Fields, Layout, fields, staged, table_pages
from helexa.engine.kernels.decoding import Pages
from helexa.engine.layers.delta import GatedDelta
from helexa.engine.layers.experts import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.cache.kv import KVCache
    from helexa.engine.models.model import Model

SIZES = (1, 2, 4, 8, 16, 32)
"""Sequences of a recorded step."""
SYNCHRONISES = "synchronizing CUDA operation"
"""What torch says of an operation that makes the host wait, if it was told to object."""


class CannotRecord(Exception):
    """A step that makes the host wait for the device cannot be recorded."""


class Recorder(Protocol):
    """Records work on a device; `CudaRecorder` is one."""

    def record(self, work: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        """Run ``work`` and remember what it did to the device.

        → what does the same again on the same memory, and the work's result, which that overwrites.
        Raises CannotRecord.
        """
        ...


class CudaRecorder:
    """CUDA graphs of one GPU that share a pool of memory, so that only the largest one's costs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        """Run it twice beside the default stream, the second time to see that nothing waits."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch gives it no types
            aside.wait_stream(stream)
            with torch.cuda.stream(aside):
                work()  # kernels are compiled, libraries claim their memory
                refuse_waiting(work)
            stream.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the GPU meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()
        return graph.replay, result


def refuse_waiting(work: Callable[[], object]) -> None:
    """Run work for a GPU; CannotRecord if the host waited for it."""
    try:
        with waits_noticed("error"):
            work()
    except RuntimeError as error:
        if SYNCHRONISES not in str(error):
            raise
        raise CannotRecord(str(error)) from error


@contextmanager
def waits_noticed(mode: Literal["warn", "error"]) -> Iterator[None]:
    """Have torch warn, or raise RuntimeError, where the host waits for a GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says, once, that it does not notice everything
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recorded step: the memory it reads, the ids there, what runs it, and what that leaves."""

    memory: Tensor
    ids: Tensor
    replay: Callable[[], None]
    computed: Computed


class DecodeGraphs:
    """The recorded steps of a model on a cache, made when they are first needed."""

    def __init__(
        self, model: Model, cache: KVCache, recorder: Recorder, sizes: Sequence[int] = SIZES
    ) -> None:
        self._model, self._cache, self._recorder = model, cache, recorder
        self._sizes = sorted(sizes)
        self._recordings: dict[Layout, Recording] = {}
        self._refused = False

    def step(self, parts: Sequence[Part]) -> Callable[[], Computed] | None:
        """A step of one new token for each of S sequences, ready to be replayed.

        It gives what was computed, S rows in order, which the next step overwrites. None for any
        other step, which must be run as usual: one with a prompt, or more sequences than any
        recording has.
        """
        layout = self._layout(parts)
        if layout is None:
            return None
        memory = staged(parts, layout, self._cache.block_size, self._model.device)
        recording = self._recordings.get(layout)
        if recording is None:
            try:
                recording = self._record(layout, memory.to(self._model.device, copy=True))
            except (CannotRecord, torch.OutOfMemoryError) as error:
                warnings.warn(f"decode steps are not recorded: {error}", stacklevel=2)
                self._refused = True
                return None
            self._recordings[layout] = recording
        return partial(self._replay, recording, memory, len(parts))

    def recorded(self, parts: Sequence[Part]) -> bool:
        """Whether there is a recording already of what such a step is."""
        return self._layout(parts) in self._recordings

    def step_of(self, parts: Sequence[Part], ids: Tensor) -> Callable[[], Computed] | None:
        """As `step`, with ids [S] on the device in place of the parts' tokens.

        None where there is no recording: none is made for it.
        """
        layout = self._layout(parts)
        if layout is None or (recording := self._recordings.get(layout)) is None:
            return None
        memory = staged(parts, layout, self._cache.block_size, self._model.device)
        return partial(self._replay, recording, memory, len(parts), ids)

    def _replay(
        self, recording: Recording, memory: Tensor, rows: int, ids: Tensor | None = None
    ) -> Computed:
        recording.memory.copy_(memory, non_blocking=True)
        if ids is not None:
            recording.ids[:rows].copy_(ids)
        recording.replay()
        return recording.computed.first(rows)

    def _layout(self, parts: Sequence[Part]) -> Layout | None:
        """What a step of these parts is padded to, if it can be replayed."""
        rows = next((size for size in self._sizes if size >= len(parts)), None)
        whole = all(
            len(part.tokens) == 1 and part.context and part.want_logits == 1 for part in parts
        )
        if not whole or rows is None or self._refused or not parts:
            return None
        size = self._cache.block_size
        pages = table_pages(max(part.context // size + 1 for part in parts))
        return Layout(rows, rows, pages)

    def _record(self, layout: Layout, memory: Tensor) -> Recording:
        """Record a step on this memory, in which all is made padding for that."""
        model, cache = self._model, self._cache
        made = fields(memory, layout)
        batch = recorded_batch(made, cache.block_size)
        for field, nothing in ((made.slots, PADDING), (made.states, PADDING), (made.lengths, 0)):
            field.fill_(nothing)  # the runs of a recording leave no trace

        def work() -> Computed:
            hidden = model(batch, cache)
            return Computed(hidden, model.logits(hidden))

        return Recording(memory, made.ids, *self._recorder.record(work))


def recorded_batch(made: Fields, page: int) -> Batch:
    """One new token for each sequence of a step, all of them in the first rows."""
    return Batch(
        made.ids,
        made.positions,
        made.slots,
        (),
        made.wanted,
        steps=(slice(0, len(made.ids)), made.states),
        pages=Pages(made.tables, made.lengths, page),
    )


def decode_graphs(model: Model, cache: KVCache) -> DecodeGraphs | None:
    """Recorded steps for a model, if they are wanted and possible.

    Nothing is recorded where the host must learn which experts were chosen, or where states are not
    changed by kernels, which leave padding alone.
    """
    if not model.numerics.cuda_graphs:
        return None
    for module in model.modules():
        if isinstance(module, Experts) and module.waits:
            return None
        if isinstance(module, GatedDelta) and not module.on_device:
            return None
    return DecodeGraphs(model, cache, CudaRecorder(model.device))
