"""Each sign of a failed attack has its sentence in the report, and a sound study has none."""

import pyarrow as pa
import pytest
from test_report import make_row

from orchestrator.attacks import ATTACKS
from orchestrator.errors import DamagedArtifact
from orchestrator.pipeline.warnings import warn
from orchestrator.store.record import ArtifactRecord
from orchestrator.transfer.matrix import CELL, MATRIX_SCHEMA, TransferMatrix
from orchestrator.transfer.work import Scored

SOUND = {"looked_at": 16, "unsteady": 0, "zero_gradient": 0, "saturated": 0, "unbounded_standing": 0}


def scored(source="k-a.full", *, shard=0, silent=0, unconfirmed=0, **indicators) -> Scored:
    told = {"indicators": SOUND | indicators, "silent": silent, "unconfirmed": unconfirmed}
    record = ArtifactRecord(recipe={"targets": {}}, files={}, provenance=told)
    return Scored(f"outcomes/apgd-ce-linf-8of255/{source}/{shard:05d}/0123abcd", record, frozenset())


def matrix(**right: int) -> TransferMatrix:
    """A source on itself under attacks, and how many of 200 images it still reads right."""
    rows = [
        make_row(("full", attack.replace("_", "-"), "linf", 8 / 255), "k-a", "k-a", adversarial=left)
        for attack, left in right.items()
    ]
    ordered = sorted(rows, key=lambda row: [row[name] for name in CELL])
    return TransferMatrix(pa.Table.from_pylist(ordered, schema=MATRIX_SCHEMA))


def said(*parts: Scored, **right: int) -> list[str]:
    attacks = {name: ATTACKS[name] for name in ("apgd-ce", "apgd-t", "square")}
    return warn(parts, matrix(**right), attacks)


def test_a_sound_study_is_warned_of_nothing() -> None:
    assert said(scored(), scored("plain"), apgd_ce=10, apgd_t=9, square=40) == []


@pytest.mark.parametrize(
    ("indicator", "hits", "words"),
    [
        ("unsteady", 1, "answers differently when asked again"),
        ("zero_gradient", 2, "has a gradient of exactly zero"),
        ("saturated", 3, "has a cross-entropy of exactly zero"),
        ("unbounded_standing", 1, "withstands an attack that may move pixels anywhere"),
    ],
)
def test_each_indicator_of_a_source_has_its_sentence(indicator: str, hits: int, words: str) -> None:
    sentences = said(scored(shard=0), scored(shard=1, **{indicator: hits}), scored("plain"), apgd_ce=1)
    assert len(sentences) == 1
    assert sentences[0].startswith(f"k-a.full: {hits} of 32 images looked at: it {words}")


def test_one_flat_or_saturated_image_in_many_says_nothing_of_a_model() -> None:
    assert said(scored(zero_gradient=1), scored(shard=1, saturated=1), apgd_ce=1) == []


def test_an_attack_without_gradients_that_beats_those_with_them_is_told() -> None:
    assert said(scored(), apgd_ce=60, apgd_t=50, square=50) == []
    (sentence,) = said(scored(), apgd_ce=60, apgd_t=50, square=49)
    assert sentence.startswith(
        "k-a (full, linf 0.0313725): an attack that sees no gradient leaves 24.5 % read"
    )
    assert "the best that sees them 25.0 %. Its gradients mislead." in sentence
    assert said(scored(), square=0) == [], "nothing to hold it against"


def test_silent_successes_and_misreadings_that_were_not_repeated_are_counted() -> None:
    silent, unconfirmed = said(scored(silent=2), scored("plain", silent=1, unconfirmed=4), apgd_ce=1)
    assert silent.startswith("3 images were misread on an attack's way, and answered with one read right")
    assert unconfirmed.startswith("4 misreadings were not repeated in another batch size")


def test_a_record_that_tells_nothing_is_damage() -> None:
    mute = Scored("outcomes/a/k-a.full/00000/0", ArtifactRecord(recipe={}, files={}), frozenset())
    with pytest.raises(DamagedArtifact, match="indicators"):
        said(mute, apgd_ce=1)
