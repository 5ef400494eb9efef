"""What a child process of a host builds: a core with the text layer that constrained output needs.

Imported in the child only; importing it makes torch ready before anybody asks for a model.
"""

from __future__ import annotations

import logging
from typing import Final

from helexa.engine.build import build_core
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.core_loop import Core
from helexa.engine.process.messages import Build
from helexa.engine.process.worker import Report
from helexa.text.grammar.factory import Bounds, GrammarFactory
from helexa.text.parsing.markers import probe_markers
from helexa.text.tokenizer import Tokenizer

PATIENT: Final = Bounds(compile_s=30.0, queue_s=120.0)
"""Whoever sends a grammar has compiled it within stricter ones, and nobody else waits for it."""

log = logging.getLogger(__name__)


def build(order: Build, report: Report) -> Core:
    """The core of the model in a folder. Raises as `open_model` does.

    The vocabulary is read for grammars now, as there are no answers yet that this would slow down.
    """
    checkpoint = open_checkpoint(order.model, progress=report)
    try:
        tokenizer = Tokenizer.from_files(checkpoint.tokenizer_files(), source=checkpoint.id)
        grammars = GrammarFactory(tokenizer, probe_markers(tokenizer), PATIENT)
        core = build_core(checkpoint, order.config, progress=report, masks=grammars)
        try:
            grammars.read_vocabulary()
        except Exception as fault:  # whoever sends a grammar is told the same
            log.warning("answers cannot be constrained: %s", fault)
        return core
    finally:
        checkpoint.close()
