"""What each weight format costs in quality: the built-in model's perplexity on held-out answers.

    python -m benchmarks.formats                     # some minutes
    python -m benchmarks.formats --count 4 --json -

Some formats are what ``quant=`` makes of the same weights when they are loaded; what `helexa
quantize` writes has the same numbers. The others are checkpoints in the layouts of other programs,
the weights rounded to nearest. Compared are the loss of the answers' tokens, given all before them,
and at every token of the text how far what is expected next is from what float32 expects.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

import helexa
from benchmarks.readings import arguments, positive, publish
from benchmarks.stored import STORED, write_stored
from helexa.engine.layers.linear import Linear
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from tools.tiny.batches import SCORED
from tools.tiny.corpus import mix
from tools.tiny.render import Encoded, encode

MADE = ("f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0")
FORMATS = (*MADE, *STORED)
FOLDER = Path(helexa.__file__).parent / "builtin" / "tiny"


@dataclass(frozen=True, slots=True)
class Quality:
    """How a format does beside float32.

    ``error`` is that of the linear layers' weights, as relative root mean square; ``perplexity``
    that of the answers and ``ratio`` its to float32's; over all tokens of the texts the mean
    ``divergence`` (Kullback and Leibler's, in nats) from float32's distribution, and how often the
    likeliest token is the same.
    """

    format: str
    error: float
    perplexity: float
    ratio: float
    divergence: float
    same_choice: float


def held_out(count: int) -> list[Encoded]:
    """``count`` samples of each skill that training never saw."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    return [
        sample
        for skill in SCORED
        for sample in encode(tokenizer, list(mix.held_out(skill, 7, count)))
    ]


def log_shares(model: Model, sample: Encoded) -> torch.Tensor:
    """The log-probabilities of what follows each token but the last, [T − 1, V]."""
    return model.compute_logits(sample.ids[:-1]).log_softmax(-1)


def loss(shares: torch.Tensor, sample: Encoded) -> torch.Tensor:
    """Of each token of the answer, in nats."""
    at = torch.tensor([i for i, weight in enumerate(sample.weights) if weight])
    return -shares[at - 1, torch.tensor(sample.ids)[at]]


def linears(model: Model) -> torch.Tensor:
    """All numbers of a model's linear layers, in their order."""
    found = (m for m in model.modules() if isinstance(m, Linear))
    return torch.cat([linear.weight.matrix().float().flatten() for linear in found])


def load(format: str) -> Model:
    """The built-in model in a format, for float32 activations."""
    if format in MADE:
        return load_model(FOLDER, device="cpu", dtype="float32", quant=format)
    with tempfile.TemporaryDirectory() as name:
        path = write_stored(FOLDER, format, Path(name))
        return load_model(path, device="cpu", dtype="float32")


def measure(formats: Sequence[str], samples: Sequence[Encoded]) -> list[Quality]:
    """All formats, beside float32."""
    exact = load_model(FOLDER, device="cpu", dtype="float32")
    expected = [log_shares(exact, sample) for sample in samples]
    least = torch.cat([loss(p, s) for p, s in zip(expected, samples, strict=True)]).mean().item()
    weights = linears(exact)
    found = []
    for format in formats:
        model = load(format)
        error = ((linears(model) - weights).norm() / weights.norm()).item()
        losses, apart, same = [], [], []
        for p, sample in zip(expected, samples, strict=True):
            q = log_shares(model, sample)
            losses.append(loss(q, sample))
            apart.append((p.exp() * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
        mean = torch.cat(losses).mean().item()
        found.append(
            Quality(
                format=format,
                error=error,
                perplexity=math.exp(mean),
                ratio=math.exp(mean - least),
                divergence=torch.cat(apart).mean().item(),
                same_choice=torch.cat(same).double().mean().item(),
            )
        )
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=positive, default=40, help="samples of each skill")
    options = parser.parse_args()
    samples = held_out(options.count)
    tokens = sum(sum(weight > 0 for weight in sample.weights) for sample in samples)
    publish(
        options.json,
        {"answer_tokens": tokens},
        measure(FORMATS, samples),
        {
            "format": lambda q: q.format,
            "weights off by": lambda q: f"{q.error:.2%}",
            "perplexity of answers": lambda q: f"{q.perplexity:.4f}",
            "of float32's": lambda q: f"{q.ratio:.4f}",
            "divergence, nats": lambda q: f"{q.divergence:.6f}",
            "same choice": lambda q: f"{q.same_choice:.2%}",
        },
    )
    print(f"\n{tokens} tokens of answers", file=sys.stderr)


if __name__ == "__main__":
    main()
