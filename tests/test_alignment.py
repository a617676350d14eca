"""Alignment: cosines of input gradients have known answers, and are an option of any study."""

import copy
import csv
import io
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from test_report import make_row, make_summary
from torch import nn

from conftest import run_locally, small_study
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.stored import freeze, load_model
from orchestrator.models.transform import BlockShuffle
from orchestrator.pipeline.alignment_price import gradient_line
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.retell import find
from orchestrator.pipeline.speed import Speed
from orchestrator.presets import digits
from orchestrator.report.alignment.part import alignment_part
from orchestrator.report.summary import StudySummary
from orchestrator.statistics.pairs import Pairs
from orchestrator.statistics.rank_correlation import rank_correlation
from orchestrator.statistics.student import mean_interval
from orchestrator.store.local import LocalStore
from orchestrator.transfer.alignment.gradients import cosines, input_gradients
from orchestrator.transfer.alignment.measured import Alignment
from orchestrator.transfer.alignment.unit import COSINES_FILE
from orchestrator.transfer.alignment.worker import AlignmentWorker


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """Two classes, whose logits are products with the image."""

    def __init__(self, *weights: torch.Tensor, shuffle: torch.Tensor | None = None) -> None:
        super().__init__()
        self.weights = torch.stack([weight.flatten() for weight in weights])
        self.shuffle = shuffle

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return (flat if self.shuffle is None else flat[:, self.shuffle]) @ self.weights.T


def compared(models: list[nn.Module], count: int = 5, size: int = 8) -> torch.Tensor:
    images, labels = drawn(count, 3, size, size), torch.arange(count) % 2
    return cosines(torch.stack([input_gradients(model, images, labels) for model in models]))


def test_linear_models_have_the_cosine_of_what_tells_their_classes_apart() -> None:
    # Of two classes the gradient is along w_other − w_label, whatever the image.
    aims = [torch.zeros(3, 8, 8) for _ in range(4)]
    aims[0][0, 0, 0] = 2.0
    aims[1][0, 0, :2] = 1.0
    aims[2][0, 0, 0] = -0.5
    aims[3][2, 5, 5] = 7.0
    found = compared([Linear(aim + 0.25, torch.full((3, 8, 8), 0.25)) for aim in aims])
    half = 0.5**0.5
    wanted = [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor([wanted] * 5).double(), rtol=0, atol=1e-6)


def test_models_of_weights_drawn_apart_have_cosines_near_zero() -> None:
    models = [Linear(*(drawn(2, 3, 32, 32, seed=seed) - 0.5)) for seed in range(1, 13)]
    found = compared(models, size=32)[0]
    apart = found[~torch.eye(12, dtype=torch.bool)]
    # Of 3,072 values: a standard deviation of 1/√3072 = 0.018.
    assert apart.abs().max() < 0.08
    assert abs(float(apart.mean())) < 0.01


def test_a_shuffle_before_the_same_weights_moves_the_gradient_on_plain_pixels() -> None:
    weights, order = (
        drawn(2, 3, 8, 8) - 0.5,
        torch.randperm(192, generator=torch.Generator().manual_seed(1)),
    )
    behind = weights.flatten(1)[:, order]
    plain, keyed, undone = Linear(*weights), Linear(*weights, shuffle=order), Linear(*behind, shuffle=order)
    found = compared([plain, keyed, undone])[0]
    assert found[0, 2] == pytest.approx(1)
    assert abs(found[0, 1]) < 0.3


@pytest.fixture(scope="module")
def vit() -> KeyedModel:
    torch.manual_seed(0)
    return freeze(KeyedModel(digits().architecture.build(), BlockShuffle(4, torch.randperm(48))))


def test_a_model_and_its_clone_have_a_cosine_of_one_whatever_scales_their_losses(vit) -> None:
    louder = copy.copy(vit)
    louder.forward = lambda images: 3 * vit(images)
    found = compared([vit, vit, louder], size=32)
    assert torch.allclose(found[:, 0, 1], torch.ones(5).double(), atol=1e-12)
    # Ten classes: a sharper softmax weighs the others anew, so this is a near miss and no identity.
    assert (found[:, 0, 2] > 0.9).all()


def test_a_gradient_depends_on_no_batch_and_no_neighbour_and_leaves_the_model_alone(vit) -> None:
    images, labels = drawn(40, 3, 32, 32), torch.arange(40) % 10
    whole = input_gradients(vit, images, labels)
    largest = whole.abs().max()
    for rows, at_a_time in ((slice(3, 20), 32), (slice(0, 40), 7), (slice(39, 40), 1)):
        part = input_gradients(vit, images[rows], labels[rows], at_a_time=at_a_time)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-5 * float(largest))
    # As many rows in every pass: the very same bytes, whatever else is in it.
    assert torch.equal(input_gradients(vit, images[3:20], labels[3:20]), whole[3:20])
    assert all(parameter.grad is None for parameter in vit.parameters())


def test_gradients_are_along_those_of_cross_entropy_and_do_not_vanish_where_it_does(vit) -> None:
    images, labels = drawn(6, 3, 32, 32), torch.arange(6)
    shown = images.clone().requires_grad_()
    logits = vit(shown).double()
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    (wanted,) = torch.autograd.grad(loss.sum(), shown)
    share = -torch.expm1(-loss.detach()).view(-1, 1, 1, 1)
    torch.testing.assert_close(input_gradients(vit, images, labels) * share.float(), wanted)
    sure = Linear(torch.full((3, 8, 8), 9.0), torch.full((3, 8, 8), -9.0))  # of a margin of 1,700
    gradients = input_gradients(sure, drawn(1, 3, 8, 8), torch.tensor([0]))
    torch.testing.assert_close(gradients, torch.full((1, 3, 8, 8), -18.0))


def test_where_a_model_has_no_gradient_there_is_no_cosine() -> None:
    gradients = torch.zeros(2, 1, 3, 4, 4)
    gradients[0, 0, 0, 0, 0] = 1e-30
    found = cosines(gradients)
    assert found[0, 0, 0] == 1
    assert found[0, 0, 1].isnan()
    assert found[0, 1, 1].isnan()


def test_students_interval_is_that_of_the_values() -> None:
    values = np.random.default_rng(0).normal(0.2, 0.3, 30)
    mean, low, high = mean_interval(values.sum(), (values**2).sum(), 30, bounds=(-1.0, 1.0))
    wanted = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (mean, low, high) == pytest.approx((values.mean(), *wanted))
    assert np.isnan(mean_interval(0.5, 0.25, 1, bounds=(-1.0, 1.0)).low)
    assert np.isnan(mean_interval(0.0, 0.0, 0, bounds=(-1.0, 1.0)).rate)


def ranked(rates: np.ndarray) -> Pairs:
    """Pairs of different models with these rates, images not redrawn."""
    source, target = np.nonzero(~np.eye(len(rates), dtype=bool))
    hits = rates[source, target][:, None]
    return Pairs([f"m{n}" for n in range(len(rates))], source, target, hits, np.ones_like(hits))


def test_rank_correlation_is_spearmans_with_each_key_left_out_in_turn() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.random((5, 5)), draw.random((5, 5))
    found = rank_correlation(ranked(one), ranked(other), {f"m{n}": f"m{n}" for n in range(5)})
    off = ~np.eye(5, dtype=bool)
    assert found.value == pytest.approx(stats.spearmanr(one[off], other[off]).statistic)
    kept = np.ix_([0, 1, 3, 4], [0, 1, 3, 4])
    inner = ~np.eye(4, dtype=bool)
    assert found.without["m2"] == pytest.approx(
        stats.spearmanr(one[kept][inner], other[kept][inner]).statistic
    )
    assert found.over_keys
    assert found.models == 5
    same = rank_correlation(ranked(one), ranked(one**3), {})
    assert same.value == pytest.approx(1)
    assert not same.over_keys
    assert np.isnan(rank_correlation(ranked(one), ranked(np.ones((5, 5))), {}).value)


def aligned(cosine: np.ndarray, names: list[str], images: int = 100, draws: int = 50) -> Alignment:
    """A method whose models have these mean cosines, the same at every image."""
    source, target = np.nonzero(~np.eye(len(names), dtype=bool))
    trials = np.full((len(source), 1 + draws), float(images))
    of = cosine[source, target][:, None]
    return Alignment(
        "full", Pairs(names, source, target, of * trials, trials), of[:, 0] ** 2 * images, images
    )


def keyed_summary(keys: int, cosine: Callable[[int, int], float]) -> StudySummary:
    """A study in which keys fool each other the more, the farther apart their numbers are."""
    names = ["plain", *(f"k-{number:012x}" for number in range(keys)), "rekeyed-0"]
    count = len(names)
    cosines_ = np.array([[cosine(a, b) for b in range(count)] for a in range(count)])
    rows = [
        make_row(
            ("full", "apgd", "linf", 8 / 255), s, t, fooled=5 + 7 * abs(names.index(s) - names.index(t))
        )
        for s, t in product(names, names)
    ]
    summary = make_summary(rows)
    models = [replace(m, twin=names[1]) if m.name == "rekeyed-0" else m for m in summary.models]
    return replace(summary, models=models, alignments=[aligned(cosines_, names)])


def test_the_report_says_how_cosines_and_fooling_rates_of_keys_go_together() -> None:
    def cosine(first: int, second: int) -> float:
        return 1.0 if {first, second} == {1, 6} else 0.1 * abs(first - second)

    part = alignment_part(keyed_summary(5, cosine))
    (section,) = part.sections
    (told,) = section.paragraphs
    # Of five keys in a row 4 pairs are 1 apart, 3 are 2, 2 are 3 and one is 4: 2 on average.
    assert "of two keys’ models 0.200 [" in told
    assert "of a key’s model and the undefended one 0.300 [" in told
    assert "rank correlation with the fooling rate (full · apgd · ℓ∞ ε = 8/255) is 1.000." in told
    kinds = {row[0]: row[1:] for row in section.tables[0].rows}
    assert kinds["two keys"][0] == "10"
    assert kinds["same function, re-keyed"] == ["1", "1.000 [1.000, 1.000]"]
    left, right = section.halves
    assert left.svg.count(">plain<") == right.svg.count(">plain<") == 2
    assert ">20<" in left.svg
    assert part.files.keys() == {"cosines.csv", *(f"cosines-full.{kind}" for kind in ("svg", "png", "pdf"))}


def test_the_report_tells_what_cannot_be_told_and_what_cannot_be() -> None:
    (section,) = alignment_part(keyed_summary(3, lambda first, second: 0.1 * abs(first - second))).sections
    assert "is 1.000 (four keys or more would give it an interval)" in section.paragraphs[0]
    assert "Something is broken" in section.paragraphs[1]
    flat = alignment_part(keyed_summary(3, lambda first, second: 1.0)).sections[0].paragraphs
    assert len(flat) == 1
    assert flat[0].endswith("do not vary: no correlation can be told.")
    assert alignment_part(replace(keyed_summary(3, lambda first, second: 1.0), alignments=())) is None


STUDY = small_study(name="study", n_keys=4, gradients=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("alignment")
    store, vault = LocalStore(root / "store" / "study"), str(root / "vault")
    done, _ = run_locally(replace(STUDY, gradients=False), store, vault)
    before = store.stamps("")
    priced = gradient_line(find(store).plan, store, Speed())
    assert not store.stamps("alignment")
    assert done.ending.failures == []
    done, said = run_locally(STUDY, store, vault)
    return store, before, priced, said, done


def test_a_study_that_asks_for_gradients_later_makes_nothing_else_anew(run) -> None:
    store, before, _, said, done = run
    after = store.stamps("")
    changed = {address for address in before if after.get(address) != before[address]}
    assert changed == {"asked", "report"}
    added = sorted(address.rsplit("/", 1)[0] for address in after.keys() - before.keys())
    assert added == ["alignment/full/00000", "alignment/full/00001"]
    assert any("gradients: 2/2" in line for line in said)
    assert done.ending.failures == []


def test_a_unit_keeps_names_and_cosines_and_nothing_of_the_gradients(run) -> None:
    store, *_ = run
    for unit in find(store).alignments.units:
        record = store.record(unit.address, unit.recipe)
        assert record.files.keys() == {COSINES_FILE}
        table = pq.read_table(pa.BufferReader(store.read(unit.address, COSINES_FILE)))
        assert table.schema.equals(unit.schema)
        assert table["cosines"].type.list_size == 5 * 4 // 2
        assert record.parents.keys() == {model.address for model in unit.models}


def test_the_price_is_what_was_paid(run) -> None:
    store, _, priced, *_ = run
    records = [store.record(unit.address) for unit in find(store).alignments.units]
    assert priced.pending == len(records) == 2
    assert priced.forwards == sum(record.provenance["forwards"] for record in records)
    assert priced.backwards == sum(record.provenance["backwards"] for record in records) == 2 * 5 * 32
    assert gradient_line(find(store).plan, store, Speed()).forwards == 0


def test_what_is_lost_is_measured_again_alike_however_little_is_held(run) -> None:
    store, *_ = run
    found = find(store)
    unit = found.alignments.units[0]
    before = store.read(unit.address, COSINES_FILE)
    store.delete(unit.address)

    def load(of, ref):
        return load_model(of, ref, STUDY.architecture, found.plan.plain.keys)

    AlignmentWorker(store.uri, load, keep_bytes=1, hold_bytes=1).run(unit)
    assert store.read(unit.address, COSINES_FILE) == before
    assert not found.alignments.run(LocalWorkplace(), PlainReporter(lambda line: None))


def test_the_report_tells_of_gradients_and_a_csv_has_every_pair(run) -> None:
    store, *_ = run
    (found,) = find(store).alignments.findings()
    page, text = (store.read("report", name).decode() for name in ("index.html", "report.md"))
    for told in (page, text):
        assert "Mean cosine of input gradients on clean images: of two keys’ models" in told
    assert {f"cosines-full.{kind}" for kind in ("svg", "png", "pdf")} < store.record("report").files.keys()
    lines = list(csv.DictReader(io.StringIO(store.read("report", "cosines.csv").decode())))
    assert len(lines) == 5 * 4 // 2
    for line in lines:
        rate, low, high = found.cosine(line["first"], line["second"])
        assert line["images"] == "40"
        assert [line["cosine"], line["low"], line["high"]] == [f"{end:.6f}" for end in (rate, low, high)]
        assert low <= rate <= high
    assert found.cosine("plain", "nobody").rate != found.cosine("plain", "nobody").rate
