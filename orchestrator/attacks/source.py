"""Source: what an attack may ask of the models it attacks; every image shown to one is counted."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import misread
from orchestrator.errors import ThreatViolated

Loss = Callable[[Float[Tensor, "batch classes"]], Float[Tensor, " batch"]]
View = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch 3 height width"]]
Draw = Callable[
    [Float[Tensor, "batch 3 ..."], Int[Tensor, " batch"]], Float[Tensor, "batch 3 height width"]
]
Combine = Literal["logits", "gradients"]
Precision = Literal["fp32", "bf16"]
Access = Literal["gradients", "logits", "decisions"]


@dataclass(frozen=True)
class Seen:
    """What a source answered about some images."""

    logits: Float[Tensor, "batch classes"]
    """In float64; of several models, their mean."""
    misread: Bool[Tensor, " batch"]
    """Judged in the images' own type, strictly: a tie is read right."""
    losses: Float[Tensor, " asked"]
    """The loss that was asked for, in float64; empty where none was."""
    gradient: Float[Tensor, "asked 3 height width"]
    """Of the sum of the losses by the images, in their type; empty where no loss was asked for."""


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What an attacker has beside the source: public, or his own."""

    plain: nn.Module | None = None
    """The public model that keyed models were tuned from; takes images in [0, 1]."""
    block_size: int = 0
    """The side M of the shuffled blocks; part of the algorithm, so no secret. 0 where unknown."""
    examples: tuple[Float[Tensor, "examples 3 height width"], Int[Tensor, " examples"]] | None = None
    """Labelled images of the attacker's own, none of those attacked."""


@dataclass
class Source:
    """One model, or several attacked as one, as an attack may ask them.

    The parameters, their gradients, hooks and modes of the models stay as they are: gradients are
    taken by the images alone. Counts are per image and exact: a pass of one image through one model.

    Args:
        models: map images in [0, 1] to logits, each row by itself; two classes or more.
        images: how many images are attacked; rows are counted by their place among them.
        batch: images shown at a time; for memory and speed, never part of an answer.
        combine: several models answer by the mean of their logits (Dong et al. 2018, arXiv
            1710.06081), or by the mean of their losses' gradients, each from its own logits.
        precision: bf16 runs models under autocast; what they then misread is looked at once more in
            the images' own type, and counts only if it is misread there too.
        access: the most that may be asked; asking for more is a defect of the attack.
        knowledge: what else the attacker has.
    """

    models: Sequence[nn.Module]
    images: int
    batch: int = 64
    combine: Combine = "logits"
    precision: Precision = "fp32"
    access: Access = "gradients"
    knowledge: Knowledge = field(default_factory=Knowledge)
    device: torch.device | str = "cpu"
    findings: dict[str, float] = field(default_factory=dict)
    """What an attack measured on its way, by name, for the record of the unit."""
    draw: Draw | None = None
    """What models see of what is shown, where that is no image yet; told which rows it is for."""

    def __post_init__(self) -> None:
        # Where the rows of this source are in the counts, which it may share.
        self.rows = torch.arange(self.images, device=self.device)
        self.forwards = torch.zeros_like(self.rows)
        self.backwards = torch.zeros_like(self.rows)
        self.seen_misread = torch.zeros_like(self.rows, dtype=torch.bool)

    def saw_misread(self, rows: Int[Tensor, " some"]) -> None:
        """Note that an image inside the threat was misread on the way, whatever is answered in the end."""
        self.seen_misread[self.rows[rows]] = True

    def part(self, rows: Int[Tensor, " some"]) -> "Source":
        """The same source for some of its images, whose rows then count from 0."""
        some, draw = self._sharing(self.models, self.rows[rows]), self.draw
        if draw is not None:
            some.draw = lambda shown, here: draw(shown, rows[here])
        return some

    def through(self, draw: Draw) -> "Source":
        """The same source, which is shown what ``draw`` makes images of, differentiably and row by row."""
        drawing = self._sharing(self.models, self.rows)
        drawing.draw = draw
        return drawing

    def of(self, *models: nn.Module) -> "Source":
        """The same images on other models, e.g. the attacker's own estimate; counted with these."""
        return self._sharing(models, self.rows)

    def logits(
        self, shown: Float[Tensor, "batch 3 height width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits in float64, the mean of all models'; one forward pass each."""
        self._allow("logits")
        return self._exact(shown, rows, short=self.precision != "fp32")

    def decisions(
        self,
        shown: Float[Tensor, "batch 3 height width"],
        rows: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
    ) -> Bool[Tensor, " batch"]:
        """Whether each image is misread, and nothing else; one forward pass each."""
        return misread(self._exact(shown, rows), labels)

    def look(
        self,
        shown: Float[Tensor, "batch 3 height width"],
        rows: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
        loss: Loss | None = None,
    ) -> Seen:
        """Logits, and with a loss its value and gradient; a backward pass more for each model.

        Args:
            shown: images in [0, 1], none to all of a batch.
            rows: which of the attacked images each one is.
            labels: of those images.
            loss: maps logits in float64 to one value an image.
        """
        empty = shown.new_zeros(0, *shown.shape[1:])
        if loss is None:
            logits, losses, gradient = self.logits(shown, rows), shown.new_zeros(0), empty
        else:
            self._allow("gradients")
            logits, losses, gradient = self._climb(shown, rows, loss)
        wrong = misread(logits, labels)
        if self.precision != "fp32" and wrong.any():
            claimed = wrong.nonzero()[:, 0]
            exact = self._exact(shown[claimed], rows[claimed])
            wrong[claimed] = misread(exact, labels[claimed])
        return Seen(logits, wrong, losses.double(), gradient)

    def gradient(
        self,
        shown: Float[Tensor, "batch 3 height width"],
        rows: Int[Tensor, " batch"],
        loss: Loss,
        view: View | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """A loss's gradient alone, for attacks that judge nothing on their way; a pass forward, one back.

        Args:
            shown: images in [0, 1], none to all of a batch.
            rows: which of the attacked images each one is.
            loss: maps logits in float64 to one value an image.
            view: a differentiable change, image by image, of what the models see; the gradient is still
                by ``shown``.
        """
        self._allow("gradients")
        return self._climb(shown, rows, loss, view)[2]

    def differentiable(
        self, shown: Float[Tensor, "batch 3 height width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits for code that takes its own gradients by ``shown``; each pass back is counted."""
        self._count(self.forwards, rows)
        if shown.requires_grad and torch.is_grad_enabled():
            self._allow("gradients")
            shown.register_hook(lambda _: self._count(self.backwards, rows))  # type: ignore[no-untyped-call]
        seen = self._drawn(shown, rows)
        return self._settled(self._heard([model(seen) for model in self.models]))

    def _climb(
        self, shown: Tensor, rows: Tensor, loss: Loss, view: View | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            images = shown.detach().requires_grad_()
            seen = self._drawn(images, rows)
            seen = seen if view is None else view(seen)
            with self._autocast():
                answers = [model(seen).double() for model in self.models]
            heard = self._heard(answers)
            losses = torch.stack([loss(answer) for answer in heard]).mean(dim=0)
            (gradient,) = torch.autograd.grad(losses.sum(), images)
        self._count(self.forwards, rows)
        self._count(self.backwards, rows)
        return self._settled([answer.detach() for answer in heard]), losses.detach(), gradient

    def _heard(self, answers: list[Tensor]) -> list[Tensor]:
        """The logits whose losses are climbed, in the mean: every model's, or the mean of them all."""
        apart = self.combine == "gradients" or len(answers) == 1
        return answers if apart else [torch.stack(answers).mean(dim=0)]

    def _settled(self, heard: list[Tensor]) -> Tensor:
        """The logits that it all comes to."""
        return torch.stack(heard).mean(dim=0) if len(heard) > 1 else heard[0]

    @torch.no_grad()
    def _exact(self, shown: Tensor, rows: Tensor, *, short: bool = False) -> Tensor:
        self._count(self.forwards, rows)
        seen = self._drawn(shown, rows)
        with self._autocast() if short else contextlib.nullcontext():
            answers = [model(seen).double() for model in self.models]
        return self._settled(self._heard(answers))

    def _drawn(self, shown: Tensor, rows: Tensor) -> Tensor:
        return shown if self.draw is None else self.draw(shown, rows)

    def _count(self, counts: Int[Tensor, " images"], rows: Int[Tensor, " batch"]) -> None:
        places = self.rows[rows]
        counts.index_add_(0, places, torch.full_like(places, len(self.models)))

    def _allow(self, asked: Access) -> None:
        order: Mapping[Access, int] = {"decisions": 0, "logits": 1, "gradients": 2}
        if order[asked] > order[self.access]:
            raise ThreatViolated(
                f"An attack that is given {self.access} alone asked for {asked}. "
                "This is a defect of the attack."
            )

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def _sharing(self, models: Sequence[nn.Module], rows: Int[Tensor, " some"]) -> "Source":
        """These models for these rows, counted where this source counts."""
        shared = replace(self, models=models, images=len(rows))
        shared.rows, shared.forwards, shared.backwards = rows, self.forwards, self.backwards
        if models is self.models:
            shared.seen_misread = self.seen_misread
        else:
            shared.seen_misread = torch.zeros_like(self.seen_misread)
        return shared
