"""The tokens that end an answer, as the metadata of a GGUF file: the way back from `END_IDS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helexa.engine.checkpoint.gguf_config import END_IDS
from helexa.engine.end_tokens import CHAT_ENDS, END_MARKERS

if TYPE_CHECKING:
    from collections.abc import Mapping

END_OF_MESSAGE = "<|eom_id|>"


def gguf_ends(ends: Mapping[int, str], eos: int | None) -> tuple[dict[str, int], list[int]]:
    """The metadata that name these ends, ids with their texts, and the ids left without a key.

    There are three keys. ``eos`` is what the first must be, None for the first of ``ends``. The
    token that ends a turn of a chat gets the second if there is a choice. Where tokens are more
    than keys, those do without that every program knows by their texts.
    """
    ids = list(ends)
    if eos is None:
        eos = next(iter(ids), None)
    if eos is None:
        return {}, []
    unknown = [id for id in ids if id != eos and ends[id] not in END_MARKERS]
    known = [id for id in ids if id != eos and ends[id] in END_MARKERS]
    turn = next((id for id in known if ends[id] in CHAT_ENDS), None)
    if len(unknown) > 1:
        turn = next((id for id in unknown if ends[id] != END_OF_MESSAGE), None)
    elif turn is None and ends.get(eos) not in CHAT_ENDS:
        turn = next((id for id in (*unknown, *known) if ends[id] != END_OF_MESSAGE), None)
    others = [id for id in (*unknown, *known) if id != turn]
    others.sort(key=lambda id: ends[id] != END_OF_MESSAGE)
    found = dict(zip(END_IDS, (eos, turn, next(iter(others), None)), strict=True))
    told = {name: id for name, id in found.items() if id is not None}
    return told, [id for id in unknown if id not in told.values()]
