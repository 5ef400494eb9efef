"""What each weight format costs in quality: the built-in model's perplexity on held-out answers.

    python -m benchmarks.formats                     # a minute or two
    python -m benchmarks.formats --count 4 --json -

Every format is what ``quant=`` makes of the same weights when they are loaded; what `helexa
quantize` writes has the same numbers. Compared are the loss of the answers' tokens, given all
before them, and at every token of the text how far what is expected next is from what float32
expects.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from tokenizers import Tokenizer

import helexa
from helexa.engine.loading import load_model
from helexa.engine.models.model import Model
from tools.tiny.batches import SCORED
from tools.tiny.corpus import mix
from tools.tiny.render import Encoded, encode

FORMATS = ("f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0")
FOLDER = Path(helexa.__file__).parent / "builtin" / "tiny"


@dataclass(frozen=True, slots=True)
class Quality:
    """How a format does beside float32.

    ``perplexity`` of the answers and its ``ratio`` to float32's; over all tokens of the texts the
    mean ``divergence`` (Kullback and Leibler's, in nats) from float32's distribution, and how often
    the likeliest token is the same.
    """

    format: str
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


def measure(formats: Sequence[str], samples: Sequence[Encoded]) -> list[Quality]:
    """All formats, beside float32."""
    exact = load_model(FOLDER, device="cpu", dtype="float32")
    expected = [log_shares(exact, sample) for sample in samples]
    least = torch.cat([loss(p, s) for p, s in zip(expected, samples, strict=True)]).mean().item()
    found = []
    for format in formats:
        model = load_model(FOLDER, device="cpu", dtype="float32", quant=format)
        losses, apart, same = [], [], []
        for p, sample in zip(expected, samples, strict=True):
            q = log_shares(model, sample)
            losses.append(loss(q, sample))
            apart.append((p.exp() * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
        mean = torch.cat(losses).mean().item()
        agreeing = torch.cat(same).double().mean().item()
        divergence = torch.cat(apart).mean().item()
        found.append(Quality(format, math.exp(mean), math.exp(mean - least), divergence, agreeing))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=40, help="samples of each skill")
    parser.add_argument("--json", metavar="PATH", help="write the readings there; - for stdout")
    options = parser.parse_args()
    samples = held_out(options.count)
    found = measure(FORMATS, samples)
    document = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "answer_tokens": sum(sum(weight > 0 for weight in sample.weights) for sample in samples),
        "formats": [asdict(quality) for quality in found],
    }
    if options.json == "-":
        print(json.dumps(document, indent=1))
        return
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    print("| format | perplexity | of float32's | divergence | same choice |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for q in found:
        print(
            f"| {q.format} | {q.perplexity:.4f} | {q.ratio:.4f} | {q.divergence:.6f} "
            f"| {q.same_choice:.2%} |"
        )
    print(f"\n{document['answer_tokens']} tokens of answers", file=sys.stderr)


if __name__ == "__main__":
    main()
