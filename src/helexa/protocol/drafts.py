"""The field of a usage that tells how many tokens were guessed; clients ignore such a field."""

from __future__ import annotations

from typing import Any, Final

DRAFTS: Final = "helexa_drafts"


def drafts_field(drafted: int, accepted: int) -> dict[str, Any]:
    """Of ``drafted`` tokens that were guessed, ``accepted`` were right."""
    return {DRAFTS: {"drafted": drafted, "accepted": accepted}}
