"""Write the model card from the measured figures: `python -m tools.tiny.card --checkpoint FILE`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tools.tiny.corpus.facts import CAPITALS, FACTS, SINGLE
from tools.tiny.render import FOLDER
from tools.tiny.train import Plan

ABOUT = {
    "greetings": "greetings, small talk, who the model is; wordings not trained",
    "arithmetic": "sums and differences of numbers from 0 to 50, results may be negative; pairs "
    "and wordings not trained",
    "lists": "sorting and reversing 3 to 5 words (first letters differ) or numbers below 100; "
    "lists and some wordings not trained",
    "counting": "counting up or down between numbers up to 55; pairs and wordings not trained",
    "facts": "facts of the invented world and capitals, in wordings not trained",
    "unknown": "saying that it does not know",
    "find": "a marked word (one never marked in training) in a text of up to about 500 tokens",
    "find_long": "the same in texts of about 700 to 2 000 tokens",
    "instructions": "following the system turn: only / start with / end with a word never asked "
    "for in training, capitals, lower case, brackets, another name",
    "tools": "the right call, name and arguments equal as JSON; none of the nouns, "
    "parameter names and text values was in a tool or a call in training; 1 to 4 tools offered",
    "no_tool": "no call although tools are offered: small talk, facts, sums, or no tool that fits",
    "results": "answering from a tool's result, plain text or JSON",
    "memory": "a later turn asks what the user said before",
    "again": "a second question about one person, with a pronoun; half under a system rule",
    "stories": "a story about the animal asked for, which ends by itself",
    "plain": "a story continued from its first four words, without the chat format",
}


def table(figures: dict[str, dict[str, float]]) -> str:
    """Return the table of measured skills."""
    lines = ["| skill | n | passed | thinking off | thinking on | what is asked |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for skill, row in figures.items():
        shares = " | ".join(
            f"{row[key]:.1f} %" for key in ("passed", "thinking_off", "thinking_on")
        )
        if skill == "plain":
            shares = f"{row['passed']:.1f} % | – | –"
        lines.append(f"| {skill} | {row['n']:.0f} | {shares} | {ABOUT[skill]} |")
    return "\n".join(lines)


def card(
    figures: dict[str, dict[str, float]], config: dict[str, Any], at: tuple[int, int, float]
) -> str:
    """Return the card's text."""
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118  # no mapping
    steps, tokens, seconds = at
    total = sum(row["n"] for row in figures.values())
    stopped = sum(row["n"] * row["stopped"] for row in figures.values()) / total
    block = sum(row["n"] * row["block"] for row in figures.values()) / total
    return (
        (Path(__file__).parent / "card.md")
        .read_text()
        .format(
            parameters=f"{parameters:,}".replace(",", " "),
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            mlp=config["intermediate_size"],
            vocab=config["vocab_size"],
            positions=config["max_position_embeddings"],
            steps=f"{steps:,}".replace(",", " "),
            step_tokens=f"{Plan().step_tokens:,}".replace(",", " "),
            tokens=f"{tokens / 1e6:.1f}",
            minutes=round(seconds / 60),
            invented=len(FACTS) - len(CAPITALS),
            real=len(CAPITALS) + len(SINGLE),
            table=table(figures),
            total=f"{total:.0f}",
            stopped=f"{stopped:.1f}",
            block=f"{block:.1f}",
        )
    )


def main() -> None:
    """Read the command line and write `README.md` into the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    given = parser.parse_args()
    figures = json.loads((FOLDER / "evaluation.json").read_text())
    config = json.loads((FOLDER / "config.json").read_text())
    at = torch.load(given.checkpoint, map_location="cpu", weights_only=True)["at"]
    (FOLDER / "README.md").write_text(card(figures, config, at))


if __name__ == "__main__":
    main()
