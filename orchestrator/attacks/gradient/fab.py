"""FAB-T: the shortest way over the boundary towards one wrong class after another."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.hyperplane import step_onto
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.patience import due, hopeless
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Seen, Source
from orchestrator.attacks.targets import wrong_classes
from orchestrator.attacks.threat import Norm, Threat, distances, project
from orchestrator.attacks.walk import keep_full

_FIRST_REVIEW = 8  # iterations; a class is given up after twice as many at the earliest


@dataclass(frozen=True, kw_only=True)
class FabTargeted:
    """FAB-T (Croce & Hein 2020, arXiv 1907.02044), for ℓ∞, ℓ2 and ℓ1.

    It looks for the nearest misread image, not for the worst inside the threat, so it does not need a
    loss that tells where to go far from the boundary. Its way leads outside the threat; only what is
    inside is ever kept, and an image is done when that is misread.

    Args:
        steps: iterations towards each class, of two forward passes and one backward pass.
        targets: wrong classes tried at most, likeliest first.
        alpha_max: the greatest share of the step that starts from the image itself.
        eta: how far a step overshoots the linearised boundary.
        beta: the share of the way from the image at which a misread row goes on.
        give_up: leave a class whose boundary is approached too slowly to be met inside the threat.

    Raises:
        StudyError: steps or targets below 1, eta below 1, or a share outside (0, 1].
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2", "l1"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    give_up: bool = False

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "targets", "eta")
        share(self, "alpha_max", "beta")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``, misread where a misread one was met there; else what came nearest."""
        answer = Answer.unmoved(points.images)
        self.cross(source, points, threat, answer, wrong_classes(source, points))
        return answer.found()

    def cross(
        self,
        source: Source,
        points: Points,
        threat: Threat,
        answer: Answer,
        wrong: Int[Tensor, "rows others"],
    ) -> None:
        """Towards each of these classes, with the points that ``answer`` does not hold misread yet."""
        step = partial(_step, self, source, threat, answer)
        for rank in range(min(self.targets, wrong.shape[1])):
            standing = (~answer.misread).nonzero()[:, 0]
            keep_full(source.batch, points.towards(wrong[:, rank]), _begin, step, rows=standing)

    def calls(self, classes: int) -> Calls:
        """Passes an image costs that neither falls nor is given up: three an iteration, and the ranking."""
        iterations = min(self.targets, classes - 1) * self.steps
        return Calls(forwards=1 + 2 * iterations, backwards=iterations)


@dataclass
class Crossing:
    """Where some images stand on their way over the boundary."""

    images: Float[Tensor, "rows 3 height width"]
    labels: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    iteration: Int[Tensor, " rows"]
    current: Float[Tensor, "rows 3 height width"]
    nearest: Float[Tensor, " rows"]  # distance of the nearest misread image, inside the threat or not
    reviewed: Float[Tensor, " rows"]  # nearest at the last review


def _begin(points: Points) -> Crossing:
    assert points.targets is not None  # noqa: S101 - given by FabTargeted.cross
    far = torch.full(points.labels.shape, torch.inf, dtype=torch.float64, device=points.labels.device)
    return Crossing(
        images=points.images,
        labels=points.labels,
        targets=points.targets,
        iteration=torch.zeros_like(points.labels),
        current=points.images if points.start is None else points.start,
        nearest=far,
        reviewed=far,
    )


def _step(
    fab: FabTargeted,
    source: Source,
    threat: Threat,
    answer: Answer,
    state: Crossing,
    here: Int[Tensor, " rows"],
) -> Bool[Tensor, " rows"]:
    """One iteration: a step onto the linearised boundary, and where it is misread a step back."""
    seen = source.look(state.current, here, state.labels, partial(_lead, state))
    fallen = _keep(answer, here, state, seen, threat)
    state.current = _ahead(fab, state, seen, threat.norm)
    seen = source.look(state.current, here, state.labels)
    fallen |= _keep(answer, here, state, seen, threat)
    distance = distances(state.current, state.images)[threat.norm]
    state.nearest = torch.where(seen.misread, distance.minimum(state.nearest), state.nearest)
    back = state.images + (state.current - state.images) * fab.beta
    state.current = torch.where(per_image(seen.misread), back, state.current)
    state.iteration = state.iteration + 1
    over = fallen | (state.iteration >= fab.steps)
    return over | _given_up(fab, state, threat) if fab.give_up else over


def _lead(state: Crossing, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
    """The target's logit less the label's: 0 on the boundary between the two."""
    both = logits.gather(1, torch.stack([state.targets, state.labels], dim=1))
    return both[:, 0] - both[:, 1]


def _ahead(
    fab: FabTargeted, state: Crossing, seen: Seen, norm: Norm
) -> Float[Tensor, "rows 3 height width"]:
    """Onto the linearised boundary, from the current image and, for a part, from the image itself."""
    current, images, slope = state.current.flatten(1), state.images.flatten(1), seen.gradient.flatten(1)
    height = seen.losses.to(current)
    onward = step_onto(current, slope, height, norm)
    afresh = step_onto(images, slope, height + (slope * (images - current)).sum(dim=1), norm)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    lengths = [torch.linalg.vector_norm(step, order, dim=1).clamp_min(1e-8) for step in (onward, afresh)]
    share = (lengths[0] / (lengths[0] + lengths[1])).clamp_max(fab.alpha_max)[:, None]
    moved = (current + fab.eta * onward) * (1 - share) + (images + fab.eta * afresh) * share
    inside: Tensor = moved.clamp(0, 1).view_as(state.images)
    return inside


def _keep(
    answer: Answer, here: Int[Tensor, " rows"], state: Crossing, seen: Seen, threat: Threat
) -> Bool[Tensor, " rows"]:
    """Offer what is inside the threat; which rows have been misread there."""
    inside = distances(state.current, state.images)[threat.norm] <= threat.epsilon
    if threat.norm == "linf":
        inside = (project(state.current, state.images, threat) == state.current).flatten(1).all(dim=1)
    losses = cross_entropy(seen.logits, state.labels)
    answer.offer(here[inside], state.current[inside], losses[inside], seen.misread[inside])
    return inside & seen.misread


def _given_up(fab: FabTargeted, state: Crossing, threat: Threat) -> Bool[Tensor, " rows"]:
    review = due(state.iteration, _FIRST_REVIEW)
    before, now = state.reviewed - threat.epsilon, state.nearest - threat.epsilon
    state.reviewed = torch.where(review, state.nearest, state.reviewed)
    return review & hopeless(now, before, state.iteration, fab.steps)
