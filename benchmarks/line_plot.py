"""Lines over a logarithmic axis as an SVG file, for benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 400, 70, 50
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8a5fbf", "#7a6a53")


def line_plot(title: str, x_name: str, lines: Mapping[str, Mapping[int, float]]) -> str:
    """An SVG document: a line for each name, through its values by x > 0; y starts at 0."""
    places = sorted({x for line in lines.values() for x in line})
    top = max((y for line in lines.values() for y in line.values()), default=1.0) * 1.08
    low, high = math.log(places[0]), math.log(places[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - 20), (HEIGHT - BOTTOM) * (1 - y / top) + 24

    parts = [text(WIDTH / 2, 14, title, "middle"), text(WIDTH / 2, HEIGHT + 20, x_name, "middle")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = at(places[0], share * top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, f"{share * top:.3g}", "end"))
    parts += [text(at(x, 0)[0], HEIGHT - 8, str(x), "middle") for x in places]
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        points = [at(x, y) for x, y in sorted(line.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(text(LEFT + 10, HEIGHT - 34 - 16 * index, name, "start", colour))
    size = f'width="{WIDTH}" height="{HEIGHT + 30}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words)}</text>"
