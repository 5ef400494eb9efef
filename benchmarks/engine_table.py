"""What a run of the engine benchmark found, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.engines import measured_one
from benchmarks.readings import markdown, spread


def table(rows: Sequence[dict[str, Any]], engines: Sequence[str]) -> str:
    """Medians in tokens per second; ratios, and parts of the bandwidth, with their range."""
    subject = measured_one(engines)
    peers = [name for name in engines if name != subject]
    header = ["format", "work", *engines, *(f"{subject} / {name}" for name in peers)]
    lines = []
    for row in rows:
        ratios = row["ratios"]
        lines.append(
            [
                *(row["format"], row["work"]),
                *(f"{row['tok_s'][name]:.1f}" if name in row["tok_s"] else "" for name in engines),
                *(spread(ratios[name]) if name in ratios else "" for name in peers),
            ]
        )
        if parts := row.get("of_bandwidth"):
            shown = [spread([100 * part for part in parts[n]], ".0f", " %") for n in engines]
            lines.append(["", "of the read bandwidth", *shown, *("" for _ in peers)])
    return markdown(header, lines)
