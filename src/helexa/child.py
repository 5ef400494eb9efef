"""What a child process of a host builds: a core with the text layer that constrained output needs.

Imported in the child only; importing it makes torch ready before anybody asks for a model.
"""

from __future__ import annotations

from helexa.engine.build import build_core
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.core_loop import Core
from helexa.engine.process.messages import Build
from helexa.engine.process.worker import Report
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.parsing.markers import probe_markers
from helexa.text.tokenizer import Tokenizer


def build(order: Build, report: Report) -> Core:
    """The core of the model in a folder. Raises as `open_model` does."""
    checkpoint = open_checkpoint(order.model, progress=report)
    try:
        tokenizer = Tokenizer.from_files(checkpoint.tokenizer_files(), source=checkpoint.id)
        grammars = GrammarFactory(tokenizer, probe_markers(tokenizer))
        return build_core(checkpoint, order.config, progress=report, masks=grammars)
    finally:
        checkpoint.close()
