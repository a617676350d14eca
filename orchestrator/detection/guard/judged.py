"""Judged rows: one image, shown to one model with its detector. Facts only; what is stopped is derived."""

import pyarrow as pa

CLEAN, NOISE = "clean", "noise"
"""In the place of an attack: images as they are, and moved by noise alone."""

# `source` is the model an image was made on; of clean images and noise it is the target itself. `score` is
# the detector's, low is suspicious; `p_value` the share of held-out clean images that score as low, so a
# detector that may stop 5 % of clean images stops what is at 0.05 or below.
JUDGED_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("method", pa.string()),
        ("attack", pa.string()),
        ("norm", pa.string()),
        ("epsilon", pa.float64()),
        ("label", pa.int32()),
        ("clean_prediction", pa.int32()),
        ("adversarial_prediction", pa.int32()),
        ("moved", pa.bool_()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
    ]
)
