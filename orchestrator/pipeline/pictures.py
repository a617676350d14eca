"""From examples beside recorded outcomes to the report's album: the images, and who read what in them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.pipeline.tally import outcome_rows
from orchestrator.report.album import Album, MovedImages
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.examples import EXAMPLES_FILE, Examples, read_examples
from orchestrator.transfer.work import Scored

# More than a page ever has room for.
_MOST_SOURCES = 64


def gather_album(store: ArtifactStore, scored: Sequence[Scored]) -> Album | None:
    """The examples of the first sources, with what each target that counts read in them.

    Outcomes recorded without examples are passed over.

    Raises:
        DamagedArtifact: examples or outcomes differ from their record, or are none.
    """
    moved: list[MovedImages] = []
    first: Examples | None = None
    labels: list[int] = []
    for parts in islice(_with_examples(scored), _MOST_SOURCES):
        examples = next(found for part in parts if (found := read_examples(store, part)))
        first = first or examples
        if examples.clean.shape != first.clean.shape or not (examples.clean == first.clean).all():
            continue  # of images that were cut otherwise
        tables = [_largest(outcome_rows(store, part), part) for part in parts]
        names = _first_names(tables, len(first.clean))
        readings, labels = _readings(tables, names)
        moved.append(_moved(parts[0], examples, readings))
    if first is None:
        return None
    return Album(labels=labels, clean=first.clean.float().numpy(), whole=first.whole, moved=moved)


def examples_digests(scored: Sequence[Scored]) -> dict[str, str]:
    """SHA-256 of the examples that an album is made of, by address."""
    parts = [part for group in islice(_with_examples(scored), _MOST_SOURCES) for part in group]
    files = [(part.address, part.record.files.get(EXAMPLES_FILE)) for part in parts]
    return {address: entry.sha256 for address, entry in files if entry}


def _with_examples(scored: Iterable[Scored]) -> Iterable[list[Scored]]:
    """Outcomes of one source, attack and shard, whatever their targets, where some have examples."""
    groups: dict[str, list[Scored]] = {}
    for part in scored:
        groups.setdefault(part.address.rpartition("/")[0], []).append(part)
    return (parts for parts in groups.values() if any(EXAMPLES_FILE in p.record.files for p in parts))


def _largest(table: pa.Table, part: Scored) -> pa.Table:
    return table.filter(pc.field("epsilon") == max(part.record.recipe["epsilons"]))


def _first_names(tables: Sequence[pa.Table], count: int) -> list[str]:
    """The first images of the shard: every target's rows are in the shard's order."""
    return next((t["image"].slice(0, count).to_pylist() for t in tables if t.num_rows), [])


def _readings(
    tables: Sequence[pa.Table], names: Sequence[str]
) -> tuple[Mapping[tuple[str, str], Sequence[tuple[int, int]]], list[int]]:
    """By method and target what was read in each image before and after; and the images' labels."""
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    labels: dict[str, int] = {}
    for table in tables:
        for row in table.filter(pc.is_in(table["image"], pa.array(names, pa.string()))).to_pylist():
            read = row["clean_prediction"], row["adversarial_prediction"]
            found.setdefault((row["method"], row["target"]), {})[row["image"]] = read
            labels[row["image"]] = row["label"]
    whole = {target: read for target, read in found.items() if len(read) == len(names)}
    return {target: [read[name] for name in names] for target, read in whole.items()}, [
        labels[name] for name in names
    ]


def _moved(
    part: Scored, examples: Examples, readings: Mapping[tuple[str, str], Sequence[tuple[int, int]]]
) -> MovedImages:
    recipe = part.record.recipe
    return MovedImages(
        source=part.address.split("/")[2].partition(".")[0],
        attack=recipe["attack"],
        norm=recipe["norm"],
        epsilon=max(recipe["epsilons"]),
        others=examples.best.float().numpy(),
        own=examples.worst.float().numpy(),
        readings=readings,
    )
