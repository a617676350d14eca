"""Committees: of N keyed models a fresh S answer each query; who holds them climbs the expectation."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from attack_scene import RowByRow
from torch import Tensor, nn

from conftest import run_locally, small_study
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.quorums import QuorumSource
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Ladder, Threat
from orchestrator.errors import StudyError, ThreatViolated, WeightsError
from orchestrator.models.committee import Committee, CommitteeSpec, Insider, quorums
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.committee_price import committee_line
from orchestrator.pipeline.committees import COMMITTEES, Committees
from orchestrator.pipeline.retell import find
from orchestrator.pipeline.speed import Speed
from orchestrator.pipeline.tally import outcome_rows
from orchestrator.status.look import Watch
from orchestrator.store.local import LocalStore
from orchestrator.store.parquet import read_exactly
from orchestrator.transfer.committee.bench import Bench
from orchestrator.transfer.committee.findings import QUERIES, read_committees
from orchestrator.transfer.committee.unit import CommitteeUnit
from orchestrator.transfer.committee.worker import COMMITTEE_FILE, COMMITTEE_SCHEMA
from orchestrator.transfer.judge import read
from orchestrator.transfer.work import WorkUnit

RIGHT, WRONG = [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]
LOUD = [0.0, 100.0, 0.0]  # outshouts any number of models that read right


class Written(nn.Module):
    """A model whose logits for image number i, which is grey i/255 all over, are written down."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[(images[:, 0, 0, 0] * 255).round().long()]


def grey(count: int) -> Tensor:
    return (torch.arange(count) / 255).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()


def shares(models: list[nn.Module], seats: int, rule: str = "mean", **settings) -> tuple[Tensor, int]:
    """How many quorums misread each image, whose label is 0, and of how many."""
    ways = quorums(len(models), seats, 1000, 0)
    count = len(models[0].logits)
    bench = Bench(models, ways, rule, **settings)
    return bench.judge(grey(count), torch.zeros(count, dtype=torch.long)).quorums, len(ways)


# What a quorum reads.


@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_a_committee_of_the_same_model_is_that_model(rule):
    misread, ways = shares([Written(RIGHT, WRONG)] * 5, 3, rule)
    assert misread.tolist() == [0, ways]


@pytest.mark.parametrize("seats", [1, 2, 3, 5])
def test_where_one_model_outshouts_the_others_the_chance_is_that_of_its_sitting(seats):
    misread, ways = shares([Written(LOUD), *[Written(RIGHT)] * 4], seats)
    assert misread.item() == math.comb(4, seats - 1)
    assert misread.item() / ways == pytest.approx(seats / 5)


def test_with_all_seats_there_is_no_chance_and_the_mean_of_all_answers():
    logits = torch.randn(4, 40, 3, generator=torch.Generator().manual_seed(1))
    models, labels = [Written(*each.tolist()) for each in logits], torch.zeros(40, dtype=torch.long)
    misread, ways = shares(models, 4)
    assert ways == 1
    assert misread.bool().tolist() == (read(models, grey(40), labels, 256).classes != labels).tolist()


def test_by_votes_the_foolable_models_need_a_majority_and_a_tie_is_read_right():
    foolable = [Written(LOUD), Written(LOUD), *[Written(RIGHT)] * 3]
    assert shares(foolable, 1, "vote")[0].item() == 2
    assert shares(foolable, 2, "vote")[0].item() == 1  # both of them; one of each is a tie
    assert shares(foolable, 3, "vote")[0].item() == math.comb(3, 1)
    assert shares(foolable, 4, "vote")[0].item() == 0
    assert shares(foolable, 5, "vote")[0].item() == 0


def test_quorums_are_counted_as_by_brute_force_and_in_any_batch():
    logits = torch.randn(6, 50, 4, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(50) % 4
    models = [Written(*each.tolist()) for each in logits]
    expected = np.zeros(50, dtype=int)
    for chosen in itertools.combinations(range(6), 3):
        mean = logits.double().numpy()[list(chosen)].mean(axis=0)
        expected += mean.argmax(axis=1) != labels.numpy()
    alone = (logits.argmax(dim=2) != labels).sum(dim=0)
    assert len(set(expected.tolist())) > 10
    for batch in (1, 2, 7, 256):
        found = Bench(models, quorums(6, 3, 1000, 0), "mean", batch).judge(grey(50), labels)
        assert found.quorums.tolist() == expected.tolist()
        assert found.members.tolist() == alone.tolist()
        assert found.unconfirmed == 0


def test_a_misreading_that_another_batch_size_does_not_repeat_is_taken_back():
    class Moody(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([WRONG if len(images) == 4 else RIGHT] * len(images))

    found = Bench([Moody(), Moody()], quorums(2, 1, 1000, 0), "mean", 4).judge(
        grey(4), torch.zeros(4, dtype=torch.long)
    )
    assert (found.quorums.sum(), found.members.sum(), found.unconfirmed) == (0, 0, 8)


def test_a_member_whose_logits_are_not_numbers_is_refused():
    with pytest.raises(WeightsError, match="not numbers"):
        shares([Written(RIGHT), Written([math.nan, 0.0, 0.0])], 1)


def test_of_many_quorums_as_many_as_asked_are_drawn_by_the_seed_alone():
    assert quorums(5, 2, 10, seed=7) == list(itertools.combinations(range(5), 2))
    drawn = quorums(20, 10, 1000, seed=7)
    assert drawn == quorums(20, 10, 1000, seed=7) != quorums(20, 10, 1000, seed=8)
    assert drawn[:100] == quorums(20, 10, 100, seed=7)
    assert all(len(set(each)) == 10 and list(each) == sorted(each) for each in drawn)
    sat = np.bincount(np.concatenate(drawn), minlength=20) / 1000
    assert np.abs(sat - 0.5).max() < 5 * math.sqrt(0.25 / 1000)


# Who attacks a committee.


def linear(seed: int, scale: float = 3.0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    net[1].weight.data *= scale
    return RowByRow(net.requires_grad_(False))


def scene(count: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(count, 3, 2, 2, generator=generator, dtype=torch.float64)
    return images, torch.arange(count) % 4


@pytest.mark.parametrize("seats", [1, 2, 3, 4])
def test_the_insiders_gradient_is_that_of_the_expected_loss(seats):
    models, (images, labels) = [linear(seed) for seed in range(4)], scene()
    ways = quorums(4, seats, 1000, 0)
    source = QuorumSource(models, len(images), combine="gradients", quorums=ways)
    rows = torch.arange(len(images))
    seen = source.look(images, rows, labels, lambda logits: cross_entropy(logits, labels))
    shown = images.clone().requires_grad_()
    each = [
        cross_entropy(sum(models[member](shown) for member in chosen) / seats, labels)
        for chosen in itertools.combinations(range(4), seats)
    ]
    expected = sum(each) / len(each)
    (gradient,) = torch.autograd.grad(expected.sum(), shown)
    torch.testing.assert_close(seen.losses, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen.gradient, gradient, rtol=1e-12, atol=1e-12)
    as_one = Source(models, len(images)).look(images, rows, labels, lambda z: cross_entropy(z, labels))
    assert torch.allclose(as_one.gradient, gradient, rtol=1e-6) == (seats == 4)
    assert source.forwards.tolist() == source.backwards.tolist() == [4] * len(images)


def test_for_a_loss_linear_in_logits_expectation_and_mean_are_one():
    models, (images, _) = [linear(seed) for seed in range(4)], scene()
    rows = torch.arange(len(images))

    def lead(logits: Tensor) -> Tensor:
        return logits[:, 1] - logits[:, 0]

    ways = quorums(4, 2, 1000, 0)
    by_quorums = QuorumSource(models, len(images), combine="gradients", quorums=ways)
    one, other = (each.gradient(images, rows, lead) for each in (by_quorums, Source(models, len(images))))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_an_insider_hears_expected_probabilities_and_may_climb_their_loss():
    models, (images, labels) = [linear(seed) for seed in range(3)], scene()
    source, rows = QuorumSource(models, 9, quorums=quorums(3, 2, 1000, 0)), torch.arange(9)
    shown = images.clone().requires_grad_()
    pairs = itertools.combinations(models, 2)
    expected = sum(((a(shown) + b(shown)) / 2).softmax(dim=1) for a, b in pairs) / 3
    heard = source.logits(images, rows)
    torch.testing.assert_close(heard.exp(), expected.detach(), rtol=1e-12, atol=1e-12)
    losses = -expected.gather(1, labels[:, None])[:, 0].log()
    (gradient,) = torch.autograd.grad(losses.sum(), shown)
    found = source.gradient(images, rows, lambda logits: cross_entropy(logits, labels))
    torch.testing.assert_close(found, gradient, rtol=1e-11, atol=1e-12)


def test_an_expected_loss_is_led_by_those_who_err_and_the_loss_of_the_expected_answer_by_the_others():
    class Sure(nn.Module):
        """Reads one direction of the image: class 1 by so much, whatever is right."""

        def __init__(self, place: int, lead: float) -> None:
            super().__init__()
            self.place, self.lead = place, lead

        def forward(self, images: Tensor) -> Tensor:
            lead = self.lead + images.flatten(1)[:, self.place]
            return torch.stack([torch.zeros_like(lead), lead], dim=1)

    image, label = torch.zeros(1, 3, 2, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    ways, pulls = quorums(2, 1, 1000, 0), {}
    for combine in ("gradients", "logits"):
        source = QuorumSource([Sure(0, 9.0), Sure(1, -9.0)], 1, combine=combine, quorums=ways)
        found = source.gradient(image, torch.zeros(1, dtype=torch.long), lambda z: cross_entropy(z, label))
        pulls[combine] = found.flatten()[:2].tolist()
    assert pulls["gradients"][0] > 1000 * pulls["gradients"][1] > 0
    # Both by p (1 - p) over the expected probability of the label: of one size, where one was led by one.
    assert pulls["logits"][0] == pytest.approx(pulls["logits"][1])


def test_an_attack_on_quorums_is_the_same_in_any_batch_and_repeats():
    images, labels = scene()
    points = Points.of(images, labels, list(range(len(images))))
    attack, threat = ApgdUntargeted(steps=5), Threat("linf", 0.1)

    def found(batch: int) -> Tensor:
        models = [linear(seed) for seed in range(3)]
        source = QuorumSource(models, len(images), batch=batch, quorums=quorums(3, 2, 1000, 0))
        return attack(source, points, threat).best

    assert torch.equal(found(64), found(64))
    assert torch.equal(found(64), found(4))


def test_models_that_are_not_the_members_are_refused():
    source = QuorumSource([linear(0), linear(1)], 9, quorums=[(0, 1)])
    with pytest.raises(ThreatViolated, match="other models than its members"):
        source.of(linear(0)).logits(scene()[0], torch.arange(9))


def test_insiders_hold_half_or_all_as_one_or_by_quorums():
    def held(seats: int, members: int) -> list[str]:
        committee = Committee(members=tuple(map(ref, range(members))), seats=seats)
        names = [each.name.removeprefix("insider-00000-") for each in committee.insiders]
        digests = {each.digest for each in committee.insiders}
        assert len(digests) == len(set(names)) == len(names)
        return names

    assert held(3, 5) == ["2of2@answer", "5of5", "3of5", "3of5@answer"]
    assert held(1, 4) == ["1of2@answer", "4of4", "1of4", "1of4@answer"]
    assert held(2, 2) == ["2of2"]


# Which committees there are.


def ref(slot: int) -> ModelRef:
    return ModelRef(name=f"k-{slot:012d}", method="full", slot=slot, recipe={"slot": slot})


def test_committees_are_of_keys_in_slot_order_and_stay_as_keys_are_added():
    spec = CommitteeSpec.parse("2of3@vote")
    found = spec.of([ref(slot) for slot in range(7)])
    assert [each.label for each in found] == ["2of3@vote-00000.full", "2of3@vote-00003.full"]
    assert spec.of([ref(slot) for slot in range(9)])[:2] == found
    assert spec.of([ref(slot) for slot in range(2)]) == []


@pytest.mark.parametrize("text", ["3", "0of3", "4of3", "1of1", "1of65", "2of3@mode", "2of3@"])
def test_committees_that_cannot_be_are_refused(text):
    with pytest.raises(StudyError, match="ommittee"):
        CommitteeSpec.parse(text)


def test_a_study_with_too_few_keys_for_a_committee_is_refused():
    with pytest.raises(StudyError, match="needs as many: give --n-keys 5"):
        small_study(committees=("3of5",))


# What it comes to.


def judged(committee: Committee, source: ModelRef | Insider | None, misread: list[int], alone: list[int]):
    """A unit and its rows."""
    work = None
    if source is not None:
        ladder = Ladder.parse("linf:8/255")
        common = {
            "settings": {},
            "shard": "shards/eval/00000",
            "shard_digest": "0",
            "targets": (),
            "seed": 0,
        }
        work = WorkUnit(attack="a", ladder=ladder, source=source, **common)
    unit = CommitteeUnit(
        committee=committee, shard="shards/eval/00000", shard_digest="0", seed=0, work=work
    )
    facts = {"committee": committee.label, "source": unit.source, "attack": "a", "norm": "linf"}
    facts |= {"epsilon": 8 / 255, "label": 0, "moved": True}
    facts |= {"quorums": committee.every, "members": len(committee.members)}
    lines = [
        {**facts, "image": f"{number}", "misread": m, "misread_alone": a}
        for number, (m, a) in enumerate(zip(misread, alone, strict=True))
    ]
    return unit, pa.Table.from_pylist(lines, COMMITTEE_SCHEMA)


def test_shares_of_known_counts():
    committee = Committee(members=tuple(map(ref, range(5))), seats=3)
    # Misread by none, by one, by five (half), by six, and by all of ten quorums.
    found = read_committees([judged(committee, ref(0), [0, 1, 5, 6, 10], [0, 1, 2, 3, 5])], draws=50)
    (line,), (form,) = found.lines, found.forms
    assert (line.holding, line.sources, line.images) == ("member", 1, 5)
    assert (form.seats, form.members, form.quorums, form.exact) == (3, 5, 10, True)
    p = np.array([0, 0.1, 0.5, 0.6, 1])
    assert [line.right[n].value for n in QUERIES] == pytest.approx([((1 - p) ** n).mean() for n in QUERIES])
    assert line.alone.value == pytest.approx(1 - 11 / 25)
    assert [each.value for each in (line.never, line.mostly, line.always)] == [0.2, 0.4, 0.2]
    low, high = line.right[1].interval()[1:]
    assert 0 <= low < line.right[1].value < high <= 1
    assert not line.right[1].over_keys


def test_a_chance_to_pass_a_hundred_queries_that_is_next_to_nothing_has_the_interval_of_none():
    committee = Committee(members=tuple(map(ref, range(16))), seats=1)
    (line,) = read_committees([judged(committee, ref(0), [15] * 40, [15] * 40)], draws=50).lines
    assert 0 < line.right[100].value < 1e-100
    rare = replace(line.right[100], replicates=line.right[100].replicates * np.linspace(0.5, 1.5, 50))
    none = replace(rare, value=0.0, replicates=np.zeros(50))
    assert rare.interval()[1:] == pytest.approx(none.interval()[1:])
    assert rare.interval().high > 0.05


def test_intervals_tell_of_other_keys_from_three_committees_on():
    committees = CommitteeSpec(1, 2).of([ref(slot) for slot in range(6)])
    counts = [[0, 0, 1, 0], [0, 1, 1, 0], [2, 1, 2, 2]]

    def lines(source):
        shown = [(c, source(c), n) for c, n in zip(committees, counts, strict=True)]
        return read_committees([judged(c, s, n, n) for c, s, n in shown], draws=50).lines

    (insider,) = lines(lambda committee: committee.insiders[-1])
    assert insider.holding == "answer"
    assert insider.right[1].over_keys
    assert len(insider.right[1].without) == 3
    member, outsider = lines(lambda _: ref(0))
    assert (member.holding, outsider.holding) == ("member", "outsider")
    assert not member.right[1].over_keys


# In a study.


STUDY = small_study(
    name="study",
    base=replace(small_study().base, epochs=3),
    train_images=384,
    n_keys=3,
    committees=("1of2", "2of2@vote"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study without committees, whose images were not kept, that is then asked for some."""
    folder = tmp_path_factory.mktemp("committees")
    store, vault = LocalStore(folder / "store" / "study"), str(folder / "vault")
    run_locally(replace(STUDY, committees=()), store, vault)
    before = store.stamps("outcomes"), recall_plan(store)
    _, said = run_locally(STUDY, store, vault)
    return store, vault, said, before


@pytest.fixture(scope="module")
def site(run) -> LocalStore:
    return run[0]


@pytest.fixture(scope="module")
def committees(site) -> Committees:
    return find(site).committees


def test_a_study_judges_its_committees_once_and_leaves_its_plan_and_outcomes_alone(run, site, committees):
    _, vault, said, (outcomes, plan) = run
    assert any("committees: 28/28" in line for line in said)
    assert site.stamps("outcomes") == outcomes
    assert (committees.plan.units, committees.plan.models) == (plan.units, plan.models)
    stamps = site.stamps("")
    _, again = run_locally(STUDY, site, vault)
    assert any("committees: 28/28 already there" in line for line in again)
    assert site.stamps("") == stamps


def test_members_alone_are_read_as_the_matrix_has_it(site, committees):
    outcomes = pa.concat_tables(outcome_rows(site, part) for part in find(site).scored).to_pandas()
    outcomes["wrong"] = outcomes["adversarial_prediction"] != outcomes["label"]
    shown = [u for u in committees.units if u.holding in ("plain", "outsider")]
    assert {unit.holding for unit in shown} == {"plain", "outsider"}
    for unit in shown:
        rows = read_exactly(site.read(unit.address, COMMITTEE_FILE), COMMITTEE_SCHEMA).to_pandas()
        members = [member.name for member in unit.committee.members]
        own = outcomes[(outcomes["source"] == unit.source) & outcomes["target"].isin(members)]
        counts = own.groupby("image")["wrong"].sum()
        assert rows["misread_alone"].tolist() == [counts[name] for name in rows["image"]]
        if unit.committee.seats == 1:
            assert rows["misread"].tolist() == rows["misread_alone"].tolist()


def test_what_is_lost_is_judged_again_alike_from_kept_images(run, site, committees):
    unit = next(unit for unit in committees.units if unit.holding == "answer")
    before, kept = site.read(unit.address, COMMITTEE_FILE), unit.work.attack_unit.for_good
    images = site.read(kept, "images.safetensors")
    for lost in (unit.address, kept):
        site.delete(lost)
    run_locally(STUDY, site, run[1])
    assert site.read(unit.address, COMMITTEE_FILE) == before
    assert site.read(kept, "images.safetensors") == images


def test_the_report_tells_of_every_attacker(site, committees):
    found = committees.findings()
    assert {line.holding for line in found.lines if line.committee == "1of2"} == {
        "nothing", "plain", "outsider", "member", "as one", "loss", "answer"
    }  # fmt: skip
    assert all(line.images == 40 for line in found.lines)
    page = site.read("report", "report.md").decode()
    assert "## Committees of keyed models" in page
    assert "1of2, Full: 1 of 2 keyed models answer each query" in page
    assert "by their votes" in page
    lines = site.read("report", "committees.csv").decode().splitlines()
    assert len(lines) == 1 + len(found.lines)
    assert {len(line.split(",")) for line in lines} == {8 + 7 * 3}


def test_committees_have_a_price_until_they_are_there_and_a_state(site, committees, store):
    there, before = (committee_line(committees.plan, each, Speed()) for each in (site, store))
    assert (there.done, there.pending, there.forwards) == (28, 0, 0)
    assert (before.done, before.pending) == (0, 28)
    # Both shards' forty images twice by two members: fourteen sorts for the two committees. Three insiders,
    # each of two models, look at forty images four times (three steps) and are judged twice.
    assert before.backwards == 3 * 40 * 2 * 4
    assert before.forwards == 14 * 2 * 40 * 2 + 3 * 40 * 2 * (4 + 2)
    stage = Watch(str(site.root.parent), "study").look(0.0, matrix=False).stages[-1]
    assert (stage.name, stage.done, stage.total) == (COMMITTEES, 28, 28)
