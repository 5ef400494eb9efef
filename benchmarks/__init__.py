"""Measured comparisons. Nothing here is a test: figures are ratios taken in one run."""
