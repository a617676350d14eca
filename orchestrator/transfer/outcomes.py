"""Outcome rows: one image, attacked on one source, read by one target. Facts only; rates are derived."""

import pyarrow as pa

# One row per image x source x target x attack x threat. `source_fooled` and `moved` are the masks
# that peers leave out: which points the attack broke at home, and which it returned unchanged.
# A source that is itself the target, or has it among its members, was tried with the image that
# asks "did it fall"; every other target with the image of highest loss, which travels better.
# `forwards` and `backwards` are passes through the source's models that this image's attack took.
OUTCOME_SCHEMA = pa.schema(
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
        ("source_fooled", pa.bool_()),
        ("moved", pa.bool_()),
        ("distance_linf", pa.float64()),
        ("distance_l2", pa.float64()),
        ("distance_l1", pa.float64()),
        ("forwards", pa.int64()),
        ("backwards", pa.int64()),
    ]
)


def outcome_schema(norm: str) -> pa.Schema:
    """The columns of a table under threats of this kind: a distance of its own more where it is no norm."""
    own = f"distance_{norm}"
    if own in OUTCOME_SCHEMA.names:
        return OUTCOME_SCHEMA
    place = OUTCOME_SCHEMA.get_field_index("forwards")
    return OUTCOME_SCHEMA.insert(place, pa.field(own, pa.float64()))
