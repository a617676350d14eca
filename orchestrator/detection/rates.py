"""Rates: the shares of clean images that detectors may stop, at which they are compared."""

RATES = (0.01, 0.02, 0.05)
