"""Targeted iterated FGSM: by hand, its targets, and when it leaves an image alone."""

from dataclasses import replace

import torch
from attack_scene import THREATS, Recorder, scene

from orchestrator.attacks.gradient.targeted_fgsm import TargetedFgsm, wanted
from orchestrator.attacks.threat import Threat

WIDE = Threat("linf", 16 / 255)


def test_it_is_the_seeds_attack_by_hand_with_a_bound():
    here = scene(n=6)
    attack = TargetedFgsm(steps=9, step=0.2)
    targets = wanted(here.points(), 10)
    moved = here.images.clone()
    for row in range(6):
        for _ in range(9):
            shown = moved[row : row + 1].clone().requires_grad_()
            logits = here.model(shown)
            if logits.softmax(dim=1)[0, targets[row]] > 0.7:
                break
            loss = torch.nn.functional.cross_entropy(logits, targets[row : row + 1])
            step = 0.2 * WIDE.epsilon * torch.autograd.grad(loss, shown)[0].sign()
            inside = (shown - step).clamp(here.images[row] - WIDE.epsilon, here.images[row] + WIDE.epsilon)
            moved[row] = inside.clamp(0, 1)[0].detach()
    torch.testing.assert_close(here.struck(attack, WIDE).best, moved)


def test_an_image_is_left_alone_once_its_target_is_read_with_confidence():
    here = scene(n=24).behind(Recorder)
    source = here.source()
    found = TargetedFgsm()(source, here.points(), WIDE)
    chances = here.model.net(found.best).softmax(dim=1)
    reached = chances.gather(1, wanted(here.points(), 10)[:, None])[:, 0]
    assert (reached > 0.7).sum() > 12
    # One small step further than confident, not hundreds.
    assert reached[reached > 0.7].max() < 0.95
    assert (source.forwards[reached > 0.7] < 60).all()
    assert (source.forwards[reached <= 0.7] == 151).all()


def test_targets_are_wrong_classes_each_as_likely():
    here = scene(n=12)
    many = replace(here, labels=here.labels[:1].expand(900), images=here.images[:1].expand(900, -1, -1, -1))
    targets = wanted(replace(many, seeds=list(range(900))).points(), 10)
    counts = torch.bincount(targets, minlength=10)
    assert counts[here.labels[0]] == 0
    assert counts[counts > 0].min() > 60
    told = replace(here.points(), targets=(here.labels + 1) % 10)
    assert torch.equal(wanted(told, 10), (here.labels + 1) % 10)
    towards = TargetedFgsm(steps=30)(here.source(), told, THREATS["linf"]).best
    read = here.model(towards).log_softmax(dim=1).gather(1, told.targets[:, None])
    assert (read > here.model(here.images).log_softmax(dim=1).gather(1, told.targets[:, None])).all()
