"""The standard cascade against AutoAttack itself: never more images left standing, and fewer passes."""

import jaxtyping
import pytest
import torch
from attack_scene import THREATS, Recorder, scene
from pyautoattack import AutoAttack

from orchestrator.attacks.gradient.standard import Standard
from orchestrator.attacks.oracle.auto_attack import AutoAttackStandard
from orchestrator.attacks.threat import Threat

EUCLIDEAN = {name: THREATS[name] for name in ("linf", "l2")}
each_threat = pytest.mark.parametrize("threat", EUCLIDEAN.values(), ids=EUCLIDEAN)
pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture
def without_type_checks():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@each_threat
@pytest.mark.parametrize("wider", [0.7, 1, 1.2])
def test_nothing_stands_that_the_authors_broke(threat, wider):
    threat, counted = Threat(threat.norm, wider * threat.epsilon), []
    here = scene(n=24, dtype=torch.float32)

    def counting(images):
        counted.append(len(images))
        if images.requires_grad:
            images.register_hook(lambda _: counted.append(len(images)))
        return here.model(images)

    norm = threat.norm.replace("l", "L", 1)
    theirs = AutoAttack(counting, norm=norm, eps=threat.epsilon, device="cpu", seed=0)
    theirs.apgd.n_iter = theirs.apgd_targeted.n_iter = theirs.fab.n_iter = 20
    theirs.square.n_queries = 200
    with torch.random.fork_rng():
        moved, *_ = theirs.run_standard_evaluation(here.images, here.labels, batch_size=24)
    broken = here.fallen(moved)
    assert 0 < broken.sum() < 24
    source = here.source()
    found = Standard(steps=20, queries=200)(source, here.points(), threat)
    assert not (broken & ~here.fallen(found.worst)).any()
    # So small a budget is given up nowhere by Square; passes are saved where images fall.
    assert source.forwards.sum() + source.backwards.sum() < 0.9 * sum(counted)


@pytest.mark.parametrize(("classes", "threat"), [(2, EUCLIDEAN["l2"]), (3, EUCLIDEAN["linf"])])
def test_giving_up_saves_passes_and_breaks_as_much(threat, classes):
    here, wide = scene(classes, n=10), Threat(threat.norm, 1.8 * threat.epsilon)
    left, spent = [], []
    for attack in (
        Standard(queries=1100, give_up=False),
        Standard(queries=1100),
        AutoAttackStandard(steps=20, queries=200),
    ):
        source = here.source()
        left.append(~here.fallen(attack(source, here.points(), wide).worst))
        spent.append(source.forwards + source.backwards)
    assert 0 < left[0].sum() < 10
    assert torch.equal(left[0], left[1])
    assert not (left[0] & ~left[2]).any()
    most = sum(Standard(queries=1100).calls(classes))
    assert (spent[0][left[0]] == most).all()
    assert spent[1][left[1]].sum() < 0.7 * spent[0][left[0]].sum()


@each_threat
def test_a_broken_image_costs_no_pass_more_and_one_that_stands_comes_back_unmoved(threat):
    here = scene(n=24)
    here.labels[:2] = (here.labels[:2] + 1) % 10
    recorder = here.behind(Recorder)
    source = recorder.source()
    found = Standard(steps=10, queries=30)(source, recorder.points(), threat)
    fallen = here.fallen(found.worst)
    assert fallen[:2].all()
    assert source.forwards[:2].tolist() == [1, 1]
    assert 4 < fallen.sum() < 24
    assert torch.equal(found.worst[~fallen], here.images[~fallen])
    # Of all that was shown of an image inside the threat, one is misread: nothing is shown after it.
    shown, answered = torch.cat(recorder.model.shown), torch.cat(recorder.model.answered)
    for row in (2 + fallen[2:].nonzero()[:, 0]).tolist():
        own = (shown - here.images[row]).abs().flatten(1).amax(dim=1) < 0.3
        lead = answered.scatter(1, here.labels[row].expand(len(answered), 1), float("-inf")).amax(dim=1)
        wrong = own & (lead > answered[:, here.labels[row]])
        inside = (
            (shown[wrong] - here.images[row])
            .flatten(1)
            .norm(torch.inf if threat.norm == "linf" else 2, dim=1)
        )
        assert (inside <= threat.epsilon * (1 + 1e-9)).sum() == 1
