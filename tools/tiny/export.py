"""Write checkpoints as the model folder: `python -m tools.tiny.export --checkpoint FILE [FILE]`.

Several checkpoints of one run, each from where its learning rate had fallen to zero, are averaged:
the mean is better than each of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.tiny.model import Qwen3, Shape
from tools.tiny.render import FOLDER
from tools.tiny.tokenizer import END, END_OF_TEXT

SAMPLING = {"do_sample": True, "temperature": 0.2, "top_k": 20, "top_p": 0.95}


def export(checkpoints: Sequence[Path], folder: Path) -> None:
    """Write mean weights (bfloat16) and both configurations; the tokenizer is there already."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    states = [torch.load(c, map_location="cpu", weights_only=True)["model"] for c in checkpoints]
    model = Qwen3(Shape(vocab=tokenizer.get_vocab_size()))
    model.load_state_dict({n: sum(s[n] for s in states) / len(states) for n in states[0]})
    weights = {name: w.to(torch.bfloat16).contiguous() for name, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    ids = tokenizer.get_vocab()
    end, pad = ids[END], ids[END_OF_TEXT]
    _write(folder / "config.json", model.shape.config(end, pad))
    special = {"bos_token_id": pad, "eos_token_id": [end, pad], "pad_token_id": pad}
    _write(folder / "generation_config.json", SAMPLING | special)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    export(given.checkpoint, given.folder)


if __name__ == "__main__":
    main()
