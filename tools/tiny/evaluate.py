"""Measure a model folder on held-out prompts: `python -m tools.tiny.evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.tiny.corpus import mix
from tools.tiny.corpus.base import Sample
from tools.tiny.grade import Grade, grade
from tools.tiny.render import FOLDER, prompt

Generate = Callable[[Sequence[str], int], list[str]]
ASKED = tuple(skill for skill in mix.MAKERS if skill not in ("plain_facts", "repeat", "drill"))


def with_transformers(folder: Path, device: str = "cpu") -> Generate:
    """Return greedy generation by Hugging Face; the bfloat16 weights compute in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    model.to(torch.device(device))  # type: ignore[arg-type]  # torch's decorator hides the self

    @torch.inference_mode()
    def generate(prompts: Sequence[str], max_new: int) -> list[str]:
        rows = tokenizer(list(prompts), return_tensors="pt", padding=True).to(device)
        out = model.generate(
            **rows, max_new_tokens=max_new, do_sample=False, top_k=None, top_p=None
        )
        texts = tokenizer.batch_decode(out[:, rows["input_ids"].shape[1] :])
        return [_cut(text) for text in texts]

    return generate


def _cut(text: str) -> str:
    """Drop the padding after the first token that ends a text."""
    for index in range(len(text)):
        for token in ("<|im_end|>", "<|endoftext|>"):
            if text.startswith(token, index):
                return text[: index + len(token)]
    return text


def run(
    generate: Generate, samples: Sequence[Sample], max_new: int, batch: int
) -> list[tuple[str, Grade]]:
    """Generate in batches of similar length; return outputs and grades in the samples' order."""
    order = sorted(range(len(samples)), key=lambda i: len(prompt(samples[i])))
    found: dict[int, tuple[str, Grade]] = {}
    for at in range(0, len(order), batch):
        chunk = order[at : at + batch]
        outputs = generate([prompt(samples[i]) for i in chunk], max_new)
        for i, output in zip(chunk, outputs, strict=True):
            if not samples[i].messages:
                output = prompt(samples[i]) + output
            found[i] = (output, grade(samples[i], output))
    return [found[i] for i in range(len(samples))]


def _share(flags: Sequence[bool]) -> float:
    return round(100 * sum(flags) / max(1, len(flags)), 1)


def summary(samples: Sequence[Sample], grades: Sequence[Grade]) -> dict[str, float]:
    """Return counts and percentages over one skill."""
    on = [g.passed for s, g in zip(samples, grades, strict=True) if s.thinking]
    off = [g.passed for s, g in zip(samples, grades, strict=True) if not s.thinking]
    return {
        "n": len(samples),
        "passed": _share([g.passed for g in grades]),
        "thinking_off": _share(off),
        "thinking_on": _share(on),
        "block": _share([g.thinking for g in grades]),
        "stopped": _share([g.stopped for g in grades]),
    }


def main() -> None:
    """Read the command line, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--skills", nargs="*", default=ASKED)
    parser.add_argument("--count", type=int, default=200, help="prompts per skill")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-new", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--failures", type=int, default=0, help="show this many per skill")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    generate = with_transformers(given.folder, given.device)
    table = {}
    for skill in given.skills:
        samples = list(mix.held_out(skill, given.seed, given.count))
        results = run(generate, samples, given.max_new, given.batch)
        table[skill] = summary(samples, [g for _, g in results])
        print(skill, json.dumps(table[skill]), flush=True)
        wrong = [(s, o) for s, (o, g) in zip(samples, results, strict=True) if not g.passed]
        for sample, output in wrong[: given.failures]:
            print("   ", repr(prompt(sample)[-300:]), "\n      wanted", repr(sample.answer))
            print("      got   ", repr(output))
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
