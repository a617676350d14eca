"""Evasion: an attack on classifier and whole bank together, by one who has both and lacks only the draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import per_image
from orchestrator.attacks.attack import Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.noise import reseeded
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.starts import random_start, steepest
from orchestrator.attacks.threat import Threat, check_threat, project
from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.gather import Gather
from orchestrator.detection.readout import Readout
from orchestrator.detection.scores import Drawn, Rule, likelihood_ratio
from orchestrator.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class Evasion:
    """Orthogonal PGD (Bryniarski et al. 2021, arXiv 2106.15023) on a model and its bank.

    While an image is not read as its target with some lead, it moves towards that along the part of the
    gradient that does not touch the detector; then it raises the likelihood ratio along the part that
    does not touch the classifier. What is raised is the score on average over draws: expectation over
    transformation (Athalye et al. 2018). By rule ``ratio`` that is the ratio of all fingerprints, exactly;
    by any other it is the mean of fresh draws at every step.

    Args:
        steps: each costs one forward and two backward passes.
        step: length of a step, in ε.
        lead: of the target's logit over all others from which on the detector is attacked.
        rule: of the score that the detector judges by; ``vote`` has no gradient.
        draws: of a step, where they are sampled.

    Raises:
        StudyError: steps or draws below 1, lead below 0 or step outside (0, 1]; or the rule is ``vote``.
    """

    steps: int = 100
    step: float = 0.1
    lead: float = 0.5
    rule: Rule = "shrunk-ratio"
    draws: int = 8

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "draws")
        if self.rule == "vote":
            raise StudyError("Rule of Evasion is vote, which has no gradient. Attack ratio in its place.")
        at_least(0, self, "lead")
        share(self, "step")

    def __call__(
        self, model: nn.Module, bank: DetectorBank, points: Points, threat: Threat
    ) -> Float[Tensor, "rows 3 height width"]:
        """Of all images visited that are read as their target, those of highest ratio; else the last ones.

        Args:
            model: in eval mode; it is left as it was found.
            bank: of the model, on its device.
            points: with targets: the classes that the images are to be read as.
            threat: ℓ∞ or ℓ2.

        Raises:
            ThreatViolated: a defect of this attack.
        """
        moved = points.images.clone()
        for rows in points.slices(bank.batch):
            moved[rows] = self._climb(model, bank, points.part(rows), threat)
        check_threat(moved, points.images, threat)
        return moved

    def _climb(self, model: nn.Module, bank: DetectorBank, points: Points, threat: Threat) -> Tensor:
        assert points.targets is not None  # noqa: S101 - a defect of the caller
        current = random_start(points, threat) if points.start is None else points.start
        best, best_ratio = current.clone(), torch.full((len(points),), float("-inf"), dtype=torch.float64)
        best_ratio = best_ratio.to(current.device)
        for step in range(self.steps + 1):
            streams = range(1 + step * self.draws, 1 + (step + 1) * self.draws)
            seeds = [reseeded(points.seeds, stream) for stream in streams]
            look = look_at(model, bank, current, points.targets, self.rule, seeds)
            better = (look.lead > 0) & (look.ratio > best_ratio)
            best[better], best_ratio[better] = current[better], look.ratio[better]
            lost = best_ratio.isinf()
            best[lost] = current[lost]
            if step == self.steps:
                break
            ahead = current + threat.epsilon * self.step * self._direction(look, threat)
            current = project(ahead, points.images, threat)
        return best

    def _direction(self, look: "Look", threat: Threat) -> Tensor:
        towards = orthogonal(look.to_target, look.to_clean)
        unseen = orthogonal(look.to_clean, look.to_target)
        return steepest(torch.where(per_image(look.lead > self.lead), unseen, towards), threat)


@dataclass(frozen=True)
class Look:
    """What an attacker sees of model and bank at some images."""

    lead: Float[Tensor, " rows"]
    """Of the target's logit over the highest other."""
    ratio: Float[Tensor, " rows"]
    """The score of the target's fingerprints, for a draw on average."""
    to_target: Float[Tensor, "rows 3 height width"]
    """Along which the target's likelihood rises."""
    to_clean: Float[Tensor, "rows 3 height width"]
    """Along which the ratio rises."""


def look_at(
    model: nn.Module,
    bank: DetectorBank,
    images: Float[Tensor, "rows 3 height width"],
    targets: Int[Tensor, " rows"],
    rule: Rule = "ratio",
    seeds: Sequence[Int[Tensor, " rows"]] = (),
) -> Look:
    """Values and gradients of classifier and bank; those of the bank go through its fingerprints.

    Args:
        model: in eval mode.
        bank: of the model.
        images: to look at.
        targets: the classes that they are to be read as.
        rule: of the score.
        seeds: of draws, one an image and draw; not needed by rule ``ratio``.
    """
    rows = bank.fingerprints.row_of.to(targets.device)[targets].clamp_min(0)
    some, place = rows.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    members = bank.fingerprints.members[some]
    gather = Gather(bank.fingerprints.layout, members.flatten(0, 1))
    with torch.enable_grad(), gather.reading(model) as values:
        shown = images.detach().requires_grad_()
        logits = model(shown).double()
        own = values.means().view(len(shown), *members.shape[:2])[torch.arange(len(shown)), place]
        ratio = average_score(bank, Readout(targets, rows, own, None), rule, seeds)
        loss = -cross_entropy(logits, targets)
        (to_target,) = torch.autograd.grad(loss.sum(), shown, retain_graph=True)
        (to_clean,) = torch.autograd.grad(ratio.sum(), shown)
    logits = logits.detach()
    others = logits.scatter(1, targets[:, None], float("-inf")).amax(dim=1)
    lead = logits.gather(1, targets[:, None])[:, 0] - others
    return Look(lead, ratio.detach(), to_target, to_clean)


def average_score(
    bank: DetectorBank, readout: Readout, rule: Rule, seeds: Sequence[Int[Tensor, " rows"]]
) -> Float[Tensor, " rows"]:
    """The score of a draw, on average: over all draws where that is known, else over these."""
    if rule == "ratio":
        return average_ratio(bank, readout.values, readout.rows)
    return torch.stack([bank.scores(readout, each, rule) for each in seeds]).mean(dim=0)


def average_ratio(
    bank: DetectorBank, values: Float[Tensor, "rows fingerprints"], rows: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """The likelihood ratio of a draw, on average over draws: that of the whole row, scaled to a draw."""
    places = torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    kept = bank.kept[rows]
    real: Bool[Tensor, "rows fingerprints"] = places < kept[:, None]
    sides = (bank.clean.marginals(rows, places), bank.attacked.marginals(rows, places))
    whole = likelihood_ratio(Drawn(values.double(), real, *sides))
    return whole * kept.clamp_max(bank.draw) / kept


def orthogonal(
    gradient: Float[Tensor, "rows 3 height width"], other: Float[Tensor, "rows 3 height width"]
) -> Float[Tensor, "rows 3 height width"]:
    """The part of a gradient along which the other one's loss does not change, image by image."""
    product, square = ((each * other).flatten(1).sum(dim=1) for each in (gradient, other))
    factor = torch.where(square > 0, product / square, 0.0)
    return gradient - per_image(factor) * other
