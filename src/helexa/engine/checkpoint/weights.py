"""Weights on their way into a model: names joined, shapes checked, left-overs refused."""

from __future__ import annotations

import threading
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor

    from helexa.engine.checkpoint.checkpoint import Checkpoint
    from helexa.engine.checkpoint.files import Progress

ALWAYS_ALLOWED = ("mtp.*", "*.rotary_emb.inv_freq")
TIED_HEAD = "lm_head.weight"
SHOWN = 8
PROGRESS_NAME = "weights"  # one for all tensors: the bytes reported are those of all, too


class Ledger:
    """Which tensors were taken, shared by all views of one load, and by its threads."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self.taken: set[str] = set()
        self.done_bytes = 0
        self.total_bytes = total_bytes
        self.progress = progress
        self.lock = threading.Lock()

    def take(self, name: str, nbytes: int) -> None:
        with self.lock:
            if name in self.taken:
                return
            self.taken.add(name)
            self.done_bytes += nbytes
            if self.progress is not None:
                self.progress(PROGRESS_NAME, self.done_bytes, self.total_bytes)


class Weights:
    """The part of a checkpoint whose names begin with ``prefix``.

    ``weights / "self_attn" / "q_proj"`` narrows. Tensors come in ``dtype`` (None: as stored) on
    ``device``; one that needs no conversion is a view of the memory map. ``progress`` is called
    after each tensor with "weights", the bytes taken so far and those of all tensors.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prefix: str = "",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.dtype = dtype
        self.device = device
        infos = (checkpoint.info(name) for name in checkpoint.names())
        self.ledger = Ledger(sum(info.nbytes for info in infos), progress)
        self.known = frozenset(checkpoint.names())

    def __truediv__(self, name: str | int) -> Weights:
        narrowed = object.__new__(Weights)
        narrowed.__dict__.update(self.__dict__)
        narrowed.prefix = self.full(str(name))
        return narrowed

    def __contains__(self, name: str) -> bool:
        return self.full(name) in self.known

    def has_below(self, name: str) -> bool:
        """Whether there are tensors whose names begin with this one and a dot."""
        start = self.full(name) + "."
        return any(known.startswith(start) for known in self.known)

    def __iter__(self) -> Iterator[str]:
        """The names below the prefix, without it."""
        start = self.full("")
        return (name.removeprefix(start) for name in self.known if name.startswith(start))

    def full(self, name: str) -> str:
        """The name as the checkpoint has it."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def tensor(
        self, name: str, shape: Sequence[int] | None = None, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Take one tensor of ``shape``, in ``dtype`` if given.

        Raises CheckpointError naming file and tensor if it is absent or has another shape.
        """
        return self.converted(self.take(name, shape), dtype)

    def dtype_of(self, name: str) -> str:
        """How a tensor is stored, as its file says it: `BF16`, `Q4_K`."""
        return self.checkpoint.info(self.full(name)).dtype

    def take(self, name: str, shape: Sequence[int] | None) -> Tensor:
        """The tensor as the checkpoint gives it, checked and counted."""
        self.check(name, shape)
        return self.counted(name, self.checkpoint.tensor(self.full(name)))

    def entry(self, name: str, index: int, count: int) -> Entry:
        """The matrix that is one of the ``count`` entries of a tensor's first axis, as a place."""
        return Entry(self / name, index, count)

    def stored(self, name: str, shape: Sequence[int] | None = None) -> Tensor:
        """What the file holds of a tensor of ``shape``: of a block format its blocks, as bytes."""
        self.check(name, shape)
        return self.counted(name, self.checkpoint.stored(self.full(name)))

    def check(self, name: str, shape: Sequence[int] | None) -> None:
        """Raises CheckpointError naming file and tensor if it is absent or has another shape."""
        full = self.full(name)
        info = self.checkpoint.info(full)
        if shape is not None and info.shape != tuple(shape):
            raise CheckpointError(
                f"tensor {full!r} in {info.file} of {self.checkpoint.id!r} has shape "
                f"{list(info.shape)}, its config asks for {list(shape)}",
                hint="config and weights do not belong together; fetch the model again",
            )

    def counted(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor, which is used from now on."""
        full = self.full(name)
        self.ledger.take(full, self.checkpoint.info(full).nbytes)
        return tensor

    def converted(self, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        return tensor.to(device=self.device, dtype=dtype or self.dtype or tensor.dtype)

    def finish(self, allowed: Sequence[str] = ()) -> None:
        """Raise CheckpointError if a tensor was not taken and no pattern of ``allowed`` matches it.

        Always allowed: `mtp.*`, `*.rotary_emb.inv_freq`, and `lm_head.weight` of a tied model.
        """
        patterns = (*ALWAYS_ALLOWED, *allowed)
        if self.checkpoint.tied:
            patterns += (TIED_HEAD,)
        left = [
            name
            for name in sorted(self.known - self.ledger.taken)
            if not any(fnmatchcase(name, pattern) for pattern in patterns)
        ]
        if not left:
            return
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        raise CheckpointError(
            f"{self.checkpoint.id!r} has tensors its model does not use: "
            f"{', '.join(left[:SHOWN])}{more} (first in {self.checkpoint.info(left[0]).file})",
            hint="its config describes another model, or a feature that is not supported",
        )


class Entry(Weights):
    """One matrix of a tensor of ``count`` such, as if it stood alone.

    Its `weight` is the tensor's entry. What belongs to its format is the entry of tensors beside
    that one: of `gate_up_proj`, the `weight_scale_inv` is in `gate_up_proj_scale_inv` and the
    `activation_scale` in `gate_up_proj_activation_scale`.
    Source: what `save_pretrained` of transformers' FP8 models writes (`FP8Experts`).
    """

    def __init__(self, place: Weights, index: int, count: int) -> None:
        self.__dict__.update(place.__dict__)
        self.index, self.count = index, count

    def full(self, name: str) -> str:
        return self.prefix + f"_{name}".replace("_weight", "", 1)

    def check(self, name: str, shape: Sequence[int] | None) -> None:
        if shape is None:
            shape = self.checkpoint.info(self.full(name)).shape[1:]
        super().check(name, (self.count, *shape))

    def take(self, name: str, shape: Sequence[int] | None) -> Tensor:
        self.check(name, shape)
        return self.counted(name, self.checkpoint.slice(self.full(name), 0, self.index, 1)[0])

    def stored(self, name: str, shape: Sequence[int] | None = None) -> Tensor:
        self.check(name, shape)
        return self.counted(name, self.checkpoint.stored(self.full(name))[self.index])
