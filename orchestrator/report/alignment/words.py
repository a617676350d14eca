"""Input gradients in plain words and tables: how alike keys are, and if that goes with who is fooled."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from orchestrator.report.alignment.grid import AlignedGrid, Likeness
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.proportion import Interval

TERMS = (
    (
        "Cosine of gradients",
        "of two models’ gradients of the cross-entropy of a clean image, by its plain pixels, through "
        "whatever the key does to them; then the mean over images. Directions drawn at random have 0, two "
        "models that compute the same have 1.",
    ),
)
# A model moved to another key computes the same to rounding.
_SAME = 0.99
# The most models whose pairs are listed.
_MOST_LISTED = 17


def paragraphs(
    aligned: AlignedGrid, likes: Sequence[Likeness], found: Sequence[tuple[str, Estimate]]
) -> Iterator[str]:
    """One method in sentences: two means and a correlation, and what a reader must know first."""
    said = {like.words: cosine_words(like.cosine.interval()) for like in likes}
    facts = [
        (said.get("two keys"), "of two keys’ models"),
        (said.get("a key and plain"), "of a key’s model and the undefended one"),
    ]
    means = ", ".join(f"{words} {value}" for value, words in facts if value)
    panel, rank = found[0]
    words = f"Mean cosine of input gradients on clean images: {means or 'no pair of keys'}."
    if rank.value == rank.value:
        doubt = "" if rank.over_keys else " (four keys or more would give it an interval)"
        words += (
            f" Over ordered pairs of keys its rank correlation with the fooling rate ({panel}) is "
            f"{cosine_words(_ranked(rank))}{doubt}."
        )
    else:
        words += (
            f" Between keys, cosines or fooling rates ({panel}) do not vary: no correlation can be told."
        )
    yield words
    for like in likes:
        if like.words.startswith("same function") and like.cosine.value < _SAME:
            yield (
                "Something is broken: a re-keyed control computes what its twin computes, yet their "
                f"gradients have a mean cosine of {like.cosine.value:.3f}. Believe no number of this part "
                "before that is explained."
            )
    if silent := _silent(aligned):
        yield f"Left out: {silent} pairs of models on an image, where a model has no gradient at all."


def kind_table(likes: Sequence[Likeness]) -> Table:
    """Every kind of pairs with its mean."""
    return Table(
        title="Cosines by kind of pair",
        note="Mean cosines, every pair alike, with 95 % intervals over images and, where three keys or "
        "more stand behind them, over keys.",
        header=["Two models", "Pairs", "Mean cosine"],
        rows=[[like.words, str(like.pairs), cosine_words(like.cosine.interval())] for like in likes],
    )


def correlation_table(found: Sequence[tuple[str, Estimate]], aligned: AlignedGrid) -> Table:
    """Every panel of the method at its largest radius."""
    keys = len(aligned.keys)
    rows = [[words, cosine_words(_ranked(rank))] for words, rank in found if rank.value == rank.value]
    return Table(
        title="Cosine and fooling rate",
        note=f"Spearman’s rank correlation over {keys * (keys - 1)} ordered pairs of keys or those of them "
        "that were attacked, with 95 % intervals over keys and images. Chance in rates of few images pulls "
        "it towards 0, and it says nothing of why.",
        header=["Panel", "Rank correlation"],
        rows=rows,
    )


def pair_tables(aligned: AlignedGrid) -> Iterator[Table]:
    """Every pair, of as few models as can be read."""
    if len(aligned.names) > _MOST_LISTED:
        return
    alignment = aligned.alignment
    assert alignment is not None  # noqa: S101 - made by ``beside`` alone
    pairs = list(combinations(aligned.names, 2))
    yield Table(
        title="Cosines, pair by pair",
        note="With 95 % intervals over images (Student’s).",
        header=["Model", "Model", "Mean cosine", "Images"],
        rows=[[*pair, cosine_words(aligned.rate(*pair)), str(alignment.counted(*pair))] for pair in pairs],
        words=2,
    )


def cosine_words(value: Interval) -> str:
    """A number in [-1, 1] with the ends of its interval, where it has some: ``0.119 [0.101, 0.137]``."""
    if value.rate != value.rate:
        return NONE
    ends = f" [{value.low:.3f}, {value.high:.3f}]" if value.low == value.low else ""
    return f"{value.rate:.3f}{ends}"


def _silent(aligned: AlignedGrid) -> int:
    alignment = aligned.alignment
    assert alignment is not None  # noqa: S101 - made by ``beside`` alone
    return int((alignment.images - alignment.pairs.trials[:, 0]).sum()) // 2


def _ranked(rank: Estimate) -> Interval:
    """Of fewer than four keys the interval would be over images alone, and say too much."""
    return rank.interval() if rank.over_keys else Interval(rank.value, *(2 * [float("nan")]))
