"""The synthetic corpus: one file per skill."""
