"""Underneath the SDK: the model as a torch module, its cache in your hands, a sampler of your own.

``helexa.load_model`` gives a ``torch.nn.Module`` for inference. Nothing runs in the background: you
call the model, you own the cache, and you decide what becomes of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

import helexa
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.models.model import Model
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.sampling import Sampled, Sampler, SampleRow
from helexa.text.chat_template import ChatTemplate
from helexa.text.tokenizer import Tokenizer


class AnySampler(Protocol):
    """What a sampler is: logits [R, V] and one row of settings each, to one token each."""

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]: ...


class TypicalSampler:
    """Takes the token whose surprise is nearest to what was to be expected (arXiv:2202.00666)."""

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        surprise = -torch.log_softmax(logits, -1)  # [R, V], in nats
        expected = (logits.softmax(-1) * surprise).sum(-1, keepdim=True)  # the entropy
        return [Sampled(int(token)) for token in (surprise - expected).abs().argmin(-1)]


def show_logits(model: Model, tokenizer: Tokenizer, ids: list[int]) -> None:
    """One forward pass: a row of logits for every position of the prompt."""
    logits = model.compute_logits(ids)  # [T, V] float32
    print("logits:", list(logits.shape), logits.dtype)
    best = logits[-1].softmax(-1).topk(4)
    for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {probability:6.1%}  {tokenizer.decode([token], skip_special_tokens=False)!r}")


def show_cache(model: Model, ids: list[int]) -> None:
    """The same prompt in two pieces through a cache gives the same logits."""
    cache = model.new_cache(tokens=64 + len(ids))
    half = len(ids) // 2
    model.compute_logits(ids[:half], cache)
    logits = model.compute_logits(ids[half:], cache, context=half)
    difference = (logits - model.compute_logits(ids)[half:]).abs().max().item()

    keys = cache.attention[0].k[: len(ids)]  # [tokens, heads, head_dim], rotated to their positions
    print(f"cache: {cache.num_blocks} pages of {cache.block_size}, {cache.nbytes / 2**20:.2f} MiB")
    print("  keys of the first layer:", list(keys.shape), keys.dtype)
    print("  their lengths:", [round(n, 1) for n in keys.norm(dim=-1)[:4, 0].tolist()], "…")
    print(f"  in two pieces, the logits differ by {difference:.0e}")


def generate(model: Model, sampler: AnySampler, prompt: list[int], end: int | None) -> list[int]:
    """The whole of text generation: a forward pass, a choice, and again."""
    params = resolve(
        SamplingParams(temperature=0, max_tokens=48), GenerationDefaults(), model.config.vocab_size
    )
    cache = model.new_cache(tokens=len(prompt) + params.max_tokens)
    generated: list[int] = []
    new, seen = prompt, 0
    while len(generated) < params.max_tokens:
        logits = model.compute_logits(new, cache, context=seen)[-1:]
        chosen = sampler.sample(logits, [SampleRow(params, generated)])[0].token_id
        if chosen == end:
            break
        generated.append(chosen)
        new, seen = [chosen], seen + len(new)
    return generated


def main() -> None:
    checkpoint = open_checkpoint("tiny")
    tokenizer = Tokenizer.from_files(checkpoint.tokenizer_files())
    template = ChatTemplate.load(checkpoint.tokenizer_files(), tokenizer)
    model = helexa.load_model(checkpoint, dtype="float32")
    print(f"{type(model).__name__}: {model.num_parameters:,} parameters on {model.device}")
    print(model)

    text = template.render([{"role": "user", "content": "What is the capital of France?"}])
    prompt = tokenizer.encode(text, add_special_tokens=False)
    show_logits(model, tokenizer, prompt)
    show_cache(model, prompt)

    for sampler in (Sampler(model.config.vocab_size), TypicalSampler()):
        answer = generate(model, sampler, prompt, tokenizer.eos_token_id)
        print(f"sampler {type(sampler).__name__}: {tokenizer.decode(answer)}")


if __name__ == "__main__":
    main()
