"""Readings: from judged rows to findings; every number is of test images, with what chance does to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.attacks.threat import Threat
from orchestrator.detection.guard.areas import mean_area
from orchestrator.detection.guard.findings import (
    CLEAN_IMAGES,
    ClassLine,
    DetectionFindings,
    HarmlessLine,
    Roc,
    SafeLine,
    SortLine,
)
from orchestrator.detection.guard.judged import CLEAN, NOISE
from orchestrator.detection.guard.matrix import GuardMatrix, build_guard_matrix, stops
from orchestrator.detection.origin import Origin
from orchestrator.detection.rates import RATES
from orchestrator.models.control import control_of
from orchestrator.models.ref import PLAIN
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.pairs import Pairs, mean_rate, pooled_rate
from orchestrator.statistics.proportion import Interval, wilson
from orchestrator.transfer.counting import build_matrix
from orchestrator.transfer.matrix import Panel

ORIGINS: tuple[Origin, ...] = ("own key", "another key", "plain")


@dataclass(frozen=True)
class Judged:
    """All judged rows of a study, and what their detectors were fitted on."""

    harmless: pa.Table
    """Clean images and noise."""
    attacked: pa.Table
    fitted_on: Sequence[str]
    images: Mapping[str, int]
    """Photographs that detectors were fitted on, and those that were held out for thresholds."""
    notes: Mapping[str, Mapping[str, str]]
    draws: int
    """Under how many redrawn sets of images everything is counted as well."""


def read_judged(judged: Judged) -> DetectionFindings:
    """Everything a report says of detectors."""
    matrix = build_guard_matrix([judged.attacked], RATES, judged.draws)
    panels = [panel for panel in matrix.bare.panels() if panel.method != PLAIN]
    return DetectionFindings(
        matrix=matrix,
        fitted_on=judged.fitted_on,
        images={**judged.images, "test": len(judged.harmless["image"].unique())},
        clean_accuracy=dict(_clean_accuracy(judged)),
        sorts=[line for panel in panels for line in _sorts(judged, matrix, panel)],
        classes=[line for panel in panels for line in _classes(judged, panel)],
        harmless=list(_harmless(judged)),
        safe=[_safe(matrix, panel) for panel in panels],
        notes=judged.notes,
    )


def _sorts(judged: Judged, matrix: GuardMatrix, panel: Panel) -> Iterator[SortLine]:
    """One line for each origin from which images of the panel fool a key's model."""
    rows = _fooling(judged.attacked, panel)
    clean = _of(judged.harmless, method=panel.method, attack=CLEAN)
    for origin in ORIGINS:
        some = _from(rows, origin)
        if not some.num_rows:
            continue
        stopped_at = {rate: matrix.stopped(panel, rate) for rate in matrix.guarded}
        stopped = {rate: _pooled(pairs, origin) for rate, pairs in stopped_at.items()}
        yield SortLine(
            panel=panel,
            origin=origin,
            seen=panel.attack in judged.fitted_on and origin != "another key",
            images=some.num_rows,
            auroc=mean_area(clean, some, judged.draws),
            stopped=stopped,
            roc=_roc(clean, some),
        )


def _pooled(pairs: Pairs, origin: Origin) -> Estimate:
    keys = _keys(pairs)
    chosen = {
        "own key": lambda: pairs.own(keys),
        "another key": lambda: pairs.among(keys, keys),
        "plain": lambda: pairs.among([PLAIN], keys),
    }[origin]()
    return pooled_rate(chosen, {name: name for name in keys})


def _keys(pairs: Pairs) -> list[str]:
    """Names of the models that have a key of their own; neither plain nor control nor ensemble."""
    return [name for name in pairs.names if _is_key(name)]


def _is_key(name: str) -> bool:
    return name != PLAIN and control_of(name) is None and "+" not in name


def _safe(matrix: GuardMatrix, panel: Panel) -> SafeLine:
    bare = matrix.bare.pairs(panel, "robust")
    keys = _keys(bare)
    clusters = {name: name for name in keys}
    guarded = {rate: each.pairs(panel, "robust") for rate, each in matrix.guarded.items()}
    return SafeLine(
        panel=panel,
        bare=mean_rate(bare.among(keys, keys), clusters),
        guarded={rate: mean_rate(pairs.among(keys, keys), clusters) for rate, pairs in guarded.items()},
        own={rate: mean_rate(pairs.own(keys), clusters) for rate, pairs in guarded.items()},
    )


def _classes(judged: Judged, panel: Panel) -> Iterator[ClassLine]:
    rows = _fooling(judged.attacked, panel)
    for read_as in sorted(rows["adversarial_prediction"].unique().to_pylist()):
        own = rows.filter(pc.equal(rows["adversarial_prediction"], read_as))
        yield ClassLine(panel=panel, read_as=read_as, images=own.num_rows, stopped=_stopped(own))


def _harmless(judged: Judged) -> Iterator[HarmlessLine]:
    rows = judged.harmless
    for method in _distinct(rows, "method"):
        clean = _of(rows, method=method, attack=CLEAN)
        misread = clean.filter(pc.not_equal(clean["clean_prediction"], clean["label"]))
        for kind, some in ((CLEAN_IMAGES, clean), (f"{CLEAN_IMAGES} that are misread", misread)):
            yield HarmlessLine(method=method, kind=kind, images=some.num_rows, stopped=_stopped(some))
        noise = _of(rows, method=method, attack=NOISE)
        for norm in _distinct(noise, "norm"):
            for epsilon in sorted(noise["epsilon"].unique().to_pylist()):
                some = _of(noise, norm=norm, epsilon=epsilon)
                if some.num_rows:
                    kind = f"noise {Threat.parse(f'{norm}:{epsilon!r}')}"
                    yield HarmlessLine(
                        method=method, kind=kind, images=some.num_rows, stopped=_stopped(some)
                    )


def _clean_accuracy(judged: Judged) -> Iterator[tuple[str, dict[float, Estimate]]]:
    """Clean test images read right and not stopped: an image that is stopped counts as misread."""
    for method in _distinct(judged.harmless, "method"):
        rows = _of(judged.harmless, method=method, attack=CLEAN)
        found = {}
        for rate in (0.0, *RATES):
            stopped = stops(rows["p_value"], rate)
            # No class is called -1: what is stopped is read right by nobody.
            seen = pc.if_else(stopped, -1, rows["adversarial_prediction"]).cast(pa.int32())
            place = rows.schema.get_field_index("adversarial_prediction")
            kept = rows.set_column(place, rows.schema.field(place), seen)
            counted = build_matrix([kept], judged.draws)
            pairs = counted.pairs(counted.panels()[0], "robust")
            keys = _keys(pairs)
            found[rate] = mean_rate(pairs.own(keys), {name: name for name in keys})
        yield method, found


def _roc(clean: pa.Table, attacked: pa.Table) -> Roc:
    """By p-values: at each of them, what a detector with that false-positive rate would stop."""
    sides = [np.sort(each["p_value"].to_numpy()) for each in (clean, attacked)]
    rates = np.unique(np.concatenate([[0.0], *sides, [1.0]]))
    shares = [np.searchsorted(side, rates, side="right") / max(1, len(side)) for side in sides]
    return Roc(shares[0], shares[1])


def _fooling(rows: pa.Table, panel: Panel) -> pa.Table:
    """Images of a panel that fool a key's model: moved, read right before, and misread."""
    rows = _of(
        rows, method=panel.method, attack=panel.attack, norm=panel.norm, epsilon=panel.epsilon, moved=True
    )
    right = pc.equal(rows["clean_prediction"], rows["label"])
    return rows.filter(pc.and_(right, pc.not_equal(rows["adversarial_prediction"], rows["label"])))


def _from(rows: pa.Table, origin: Origin) -> pa.Table:
    """Images by whose they are to the model they are shown to; controls and ensembles are left out."""
    sources = rows["source"].unique().to_pylist()
    keys = pa.array([name for name in sources if _is_key(name)], pa.string())
    own = pc.equal(rows["source"], rows["target"])
    if origin == "own key":
        return rows.filter(own)
    if origin == "plain":
        return rows.filter(pc.equal(rows["source"], PLAIN))
    return rows.filter(pc.and_(pc.is_in(rows["source"], keys), pc.invert(own)))


def _stopped(rows: pa.Table) -> dict[float, Interval]:
    return {
        rate: wilson(pc.sum(stops(rows["p_value"], rate)).as_py() or 0, rows.num_rows) for rate in RATES
    }


def _of(rows: pa.Table, **values: str | float | bool) -> pa.Table:
    for name, value in values.items():
        rows = rows.filter(pc.equal(rows[name], value))
    return rows


def _distinct(rows: pa.Table, name: str) -> list[str]:
    return sorted(map(str, rows[name].unique().to_pylist()))
