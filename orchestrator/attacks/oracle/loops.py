"""The authors' attacks of AutoAttack, called one by one with noise and ties in our hands.

pyautoattack's `perturb` methods reseed the process, draw noise for a batch as a whole, leave
gradients in the parameters and decide by argmax. We call the loops beneath them instead, and
override four small methods: what is drawn, what is differentiated, and what is a tie.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor

from orchestrator.attacks.answer import misread
from orchestrator.attacks.attack import Points
from orchestrator.attacks.source import Source
from orchestrator.attacks.starts import random_start
from orchestrator.attacks.threat import Threat, distances
from orchestrator.seeds import derive_seed

MOST_TARGETS = 9  # wrong classes tried by APGD-T and FAB-T

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Images a model still reads right, and what an attack on them needs to know."""

    source: Source
    rows: Int[Tensor, " batch"]  # which of the attacked images these are
    points: Points
    wrong: Int[Tensor, "batch others"]  # wrong classes, likeliest first
    threat: Threat

    @property
    def images(self) -> Float[Tensor, "batch 3 height width"]:
        """The images as they are."""
        return self.points.images

    @property
    def labels(self) -> Int[Tensor, " batch"]:
        """Their labels."""
        return self.points.labels

    def logits(
        self, moved: Float[Tensor, "some 3 height width"], rows: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "some classes"]:
        """Logits in float32, whatever type the model takes and gives."""
        # FAB drops images it reads wrong at the outset without telling which; none is by our rule,
        # so only a model that rounds otherwise in another batch makes a count go to a neighbour.
        rows = self.rows[: len(moved)] if rows is None else rows
        return self.source.differentiable(moved.to(self.images.dtype), rows).float()

    def logits_without_ties(
        self, moved: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of these very images, moved; a tied label wins by one float.

        The authors decide by argmax, which gives a tie to whichever class comes first.
        """
        logits = self.logits(moved)
        column = self.labels[:, None]
        label = logits.detach().gather(1, column)
        lift = torch.nextafter(label, torch.full_like(label, float("inf"))) - label
        tied = label == logits.detach().scatter(1, column, float("-inf")).amax(dim=1, keepdim=True)
        return logits.scatter_add(1, column, lift.where(tied, 0.0))

    @property
    def settings(self) -> dict[str, object]:
        """The arguments that all of the authors' attacks share."""
        norm = {"linf": "Linf", "l2": "L2"}[self.threat.norm]
        return {"norm": norm, "eps": self.threat.epsilon, "device": self.images.device}


Stage = Callable[[Standing], Float[Tensor, "batch 3 height width"]]


def stages(classes: int, steps: int, queries: int, windows_seed: int) -> dict[str, Stage]:
    """The attacks of the standard protocol by name, in their order, as far as valid for classes."""
    targets = range(1, min(MOST_TARGETS, classes - 1) + 1)
    plan: dict[str, Stage] = {"apgd-ce": partial(apgd, loss="ce", steps=steps)}
    if classes == 3:
        plan["apgd-dlr"] = partial(apgd, loss="dlr", steps=steps)
    if classes > 3:
        plan |= {f"apgd-t {rank}": partial(apgd_to, rank=rank, steps=steps) for rank in targets}
    plan |= {f"fab-t {rank}": partial(fab_to, rank=rank, steps=steps) for rank in targets}
    return plan | {"square": partial(square, queries=queries, windows_seed=windows_seed)}


def apgd(standing: Standing, loss: str, steps: int) -> Tensor:
    """APGD on the cross-entropy (``ce``) or the difference of logits ratio (``dlr``)."""
    attack = APGDAttack(
        standing.logits_without_ties, n_iter=steps, loss=loss, logger=_log, **standing.settings
    )
    return _run_apgd(attack, standing)


def apgd_to(standing: Standing, rank: int, steps: int) -> Tensor:
    """APGD towards the wrong class of this rank, on the targeted DLR loss."""
    attack = APGDAttack_targeted(
        standing.logits_without_ties, n_iter=steps, logger=_log, **standing.settings
    )
    attack.y_target = standing.wrong[:, rank - 1]
    return _run_apgd(attack, standing)


def _run_apgd(attack: APGDAttack, standing: Standing) -> Tensor:
    images = standing.images.float()
    attack.init_hyperparam(images)
    start = random_start(standing.points, standing.threat).float()
    last_misread: Tensor
    _, _, _, last_misread = attack.attack_single_run(images, standing.labels, x_init=start)
    return last_misread


def fab_to(standing: Standing, rank: int, steps: int) -> Tensor:
    """FAB towards the wrong class of this rank; images it can only break farther out come back."""
    attack = InputOnlyFab(standing.logits, n_iter=steps, targeted=True, **standing.settings)
    attack.labels, attack.target_class = standing.labels, rank + 1
    images = standing.images.float()
    nearest = attack.attack_single_run(images, standing.labels, is_targeted=True)
    within = distances(nearest, images)[standing.threat.norm] <= standing.threat.epsilon * (1 + 1e-6)
    return torch.where(within[:, None, None, None], nearest, images)


class InputOnlyFab(FABAttack_PT):  # type: ignore[misc]  # the package has no types
    """FAB that differentiates by the images only, and gives the label every tie."""

    labels: Int[Tensor, " batch"]

    def get_diff_logits_grads_batch_targeted(
        self, imgs: Tensor, la: Tensor, la_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The lead of each target over its label, and its gradient, with an axis for classes."""
        with torch.enable_grad():
            images = imgs.detach().requires_grad_()
            logits = self.predict(images)
            lead = logits.gather(1, la_target[:, None]) - logits.gather(1, la[:, None])
            (slope,) = torch.autograd.grad(lead.sum(), images)
        return lead.detach(), slope[:, None]

    def _get_predicted_label(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.predict(x)
        predicted: Tensor = logits.argmax(dim=1)
        # FAB goes on without rows it reads wrong at the outset; whose row is whose is then unknown.
        if len(x) != len(self.labels):
            return predicted
        return torch.where(misread(logits, self.labels), predicted, self.labels)


def square(standing: Standing, queries: int, windows_seed: int) -> Tensor:
    """Square Attack on the margin; the same windows for every image, its own signs for each."""
    attack = OwnSignsSquare(standing.logits, n_queries=queries, resc_schedule=False, **standing.settings)
    images = standing.images.float()
    attack.init_hyperparam(images)
    attack.generators = [torch.Generator().manual_seed(seed) for seed in standing.points.seeds.tolist()]
    attack.rows = standing.rows
    torch.default_generator.manual_seed(derive_seed(windows_seed, "square", "windows"))
    moved: Tensor
    _, moved = attack.attack_single_run(images, standing.labels)
    return moved


class OwnSignsSquare(SquareAttack):  # type: ignore[misc]  # the package has no types
    """Square Attack in which every image draws from its own generator and a tie breaks nothing.

    What is left to the process's generator is drawn as often for one image as for many.
    """

    generators: list[torch.Generator]  # of the images not yet broken
    rows: Int[Tensor, " some"]  # which they are

    def random_choice(self, shape: list[int]) -> Tensor:
        """Signs, drawn image by image where the first of four axes is that of images."""
        if len(shape) < 4:
            signs: Tensor = super().random_choice(shape)
            return signs
        drawn = [torch.rand(shape[1:], generator=own) for own in self.generators]
        return (2 * torch.stack(drawn) - 1).sign().to(self.device)

    def margin_and_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The label's lead over the best other class, twice: as the margin and as the loss."""
        logits = self.predict(x, self.rows)
        others = logits.scatter(1, y[:, None], float("-inf")).amax(dim=1)
        margin = (logits.gather(1, y[:, None])[:, 0] - others).nan_to_num(nan=1e38)
        # The authors stop at a margin of 0, which argmax may well read right.
        margin = margin.where(margin != 0, torch.finfo(margin.dtype).tiny)
        self.generators = _those(self.generators, margin > 0)
        self.rows = self.rows[margin > 0]
        return margin, margin


def _those(generators: list[torch.Generator], kept: Bool[Tensor, " some"]) -> list[torch.Generator]:
    return [own for own, keep in zip(generators, kept.tolist(), strict=True) if keep]
