"""Lines over a logarithmic axis as an SVG file, for benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, LEGEND = 640, 400, 70, 50, 190
COLOURS = (
    *("#1b6ca8", "#c8553d", "#3a7d44", "#8a5fbf", "#7a6a53"),
    *("#d99a1c", "#17a2a2", "#c2478f", "#6b8e23", "#444444"),
)
DASHES = ("", "7 4", "2 3", "9 3 2 3")


def styles(names: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """A colour and dashes for each name.

    What stands before a comma says the colour: `dense, compiled` is dashed in the colour of
    `dense`, whichever comes first, and dashed even alone.
    """
    kinds = list(dict.fromkeys(name.partition(",")[0] for name in names))
    variants = ["", *dict.fromkeys(more for name in names if (more := name.partition(",")[2]))]
    found = {}
    for name in names:
        kind, _, variant = name.partition(",")
        dashes = DASHES[min(variants.index(variant), len(DASHES) - 1)]
        found[name] = COLOURS[kinds.index(kind) % len(COLOURS)], dashes
    return found


def line_plot(title: str, x_name: str, lines: Mapping[str, Mapping[int, float]]) -> str:
    """An SVG document: a line for each name, through its values by x > 0; y starts at 0.

    The names stand at the right, each beside a piece of its line.
    """
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
    for index, (name, (colour, dashes)) in enumerate(styles(lines).items()):
        points = [at(x, y) for x, y in sorted(lines[name].items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        stroke = f'fill="none" stroke="{colour}" stroke-width="2"{dashed}'
        parts.append(f'<polyline points="{path}" {stroke}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        beside = 34 + 18 * index
        parts.append(f'<path d="M{WIDTH - 8} {beside}h30" {stroke}/>')
        parts.append(text(WIDTH + 28, beside + 4, name, "start", colour))
    size = f'width="{WIDTH + LEGEND}" height="{HEIGHT + 30}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words)}</text>"
