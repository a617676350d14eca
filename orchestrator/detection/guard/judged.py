"""Judged rows: one image, shown to one model with its detector. Facts only; what is stopped is derived."""

import pyarrow as pa

from orchestrator.transfer.outcomes import OUTCOME_SCHEMA

CLEAN, NOISE = "clean", "noise"
"""In the place of an attack: images as they are, and moved by noise alone."""

_AS_OUTCOMES = (
    *("image", "source", "target", "method", "attack", "norm", "epsilon", "label"),
    *("clean_prediction", "adversarial_prediction", "moved"),
)
# `source` is the model an image was made on; of clean images and noise it is the target itself. `score` is
# the detector's, low is suspicious; `p_value` the share of held-out clean images that score as low, so a
# detector that may stop 5 % of clean images stops what is at 0.05 or below.
JUDGED_SCHEMA = pa.schema(
    [
        *(OUTCOME_SCHEMA.field(name) for name in _AS_OUTCOMES),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
    ]
)
