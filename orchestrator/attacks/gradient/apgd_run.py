"""One run of APGD from one start a point, under any norm; under ℓ1 from wide balls to the narrow one."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd import Apgd, ApgdLoss
from orchestrator.attacks.gradient.apgd_l1 import ApgdL1
from orchestrator.attacks.l1 import project_l1
from orchestrator.attacks.source import Source
from orchestrator.attacks.starts import random_start
from orchestrator.attacks.threat import Threat
from orchestrator.attacks.walk import walk


@dataclass(frozen=True, kw_only=True)
class ApgdRun:
    """APGD's walk with its settings; ``steps + 1`` looks at every point, under every norm.

    Under ℓ1 points without a start of their own spend 30 % of the looks in the ball of radius 3ε and
    30 % in that of 2ε, each from the best image of the last brought inside (Croce & Hein 2021, arXiv
    2103.01208, §4). The authors give these steps and look at each ball's start besides; here the look
    at a start is one of the 30 %.

    Args:
        steps: gradient steps.
        rho: share of a window's steps that must raise the loss; not used under ℓ1.
        objective: what is climbed.
        early: whether a point is done as soon as it is misread, and is skipped if it was before.
    """

    steps: int
    rho: float
    objective: ApgdLoss
    early: bool

    def __call__(self, source: Source, points: Points, threat: Threat, answer: Answer) -> None:
        """Offer ``answer`` every image visited inside ``threat``."""
        every = torch.arange(len(points), device=points.images.device)
        rows = (~answer.misread).nonzero()[:, 0] if self.early else every
        if threat.norm != "l1":
            steps = Apgd(threat, self.steps, self.rho, self.objective)
            walk(source, points, steps, answer, early=self.early, rows=rows)
            return
        wide = 3 * self.steps // 10 if points.start is None else 0
        if wide:
            points = self._from_wide_balls(source, points, threat, wide, rows)
        last = ApgdL1(threat, self.steps - 2 * wide, self.objective)
        walk(source, points, last, answer, early=self.early, rows=rows)

    def _from_wide_balls(
        self, source: Source, points: Points, threat: Threat, looks: int, rows: Int[Tensor, " some"]
    ) -> Points:
        """The points with the start that two wider balls lead to; ``looks`` in each."""
        start = random_start(points, Threat("l1", 3 * threat.epsilon))
        for widening in (3, 2):
            ball = ApgdL1(Threat("l1", widening * threat.epsilon), looks - 1, self.objective)
            # Nothing seen out there is offered, nor ends a walk: it is no image of the threat.
            for some in torch.split(rows, source.batch) if len(rows) else ():
                begun = replace(points, start=start).part(some)
                start[some] = _end_of(source, begun, ball, some)
            start = project_l1(start, points.images, (widening - 1) * threat.epsilon)
        return replace(points, start=start)


def _end_of(
    source: Source, points: Points, ball: ApgdL1, rows: Int[Tensor, " some"]
) -> Float[Tensor, "some 3 height width"]:
    """The best image of each point after all steps in a ball."""
    state = ball.begin(points)
    for _ in range(ball.steps + 1):
        seen = source.look(ball.ask(state), rows, points.labels, lambda logits: ball.loss(state, logits))
        ball.tell(state, seen)
    return state.best
