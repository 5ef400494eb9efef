"""The merges that SentencePiece's BPE makes, from the scores of its pieces."""

from __future__ import annotations

from collections.abc import Mapping


def merges_of_scores(scores: Mapping[str, float]) -> list[list[str]]:
    """Every pair of pieces that make a piece, the one of the highest score first.

    SentencePiece merges where the result scores highest, a list of merges where it stands first:
    the same order, as no two pieces of a BPE have the same score. Where one piece can be made of
    several pairs, those of longer left parts come first.
    """
    best = sorted(scores, key=lambda piece: -scores[piece])
    return [
        [piece[:cut], piece[cut:]]
        for piece in best
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in scores and piece[cut:] in scores
    ]
