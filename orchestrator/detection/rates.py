"""Rates: the shares of clean images that detectors may stop, at which they are compared."""

RATES = (0.01, 0.02, 0.05)


def highest(rate: float) -> float:
    """The highest p-value that is stopped: a p-value is a ratio of whole numbers, and rounds."""
    return rate + 1e-12
