"""Contest: bank and rivals on the same test images, with thresholds from the same held-out ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.detection.measures import auroc, flagged_at
from orchestrator.detection.origin import Sort
from orchestrator.detection.rates import RATES
from orchestrator.detection.rivals.disagreement import Disagreement
from orchestrator.detection.rivals.mahalanobis import Mahalanobis
from orchestrator.detection.rivals.rival import CalibratedRival, Rival
from orchestrator.detection.rivals.squeezing import FeatureSqueezing
from orchestrator.detection.scores import Rule
from orchestrator.detection.subject import Subject
from orchestrator.detection.verdict import Verdict
from orchestrator.errors import DataError
from orchestrator.seeds import derive_seed
from orchestrator.statistics.proportion import Interval

Judge = Callable[[Tensor], Verdict]
SECRETS: Mapping[str, str] = {
    "bank": "the bank",
    "feature squeezing": "nothing",
    "Mahalanobis": "means and covariance of the last features",
    "disagreement": "the weights of another key's model",
}
"""What each detector keeps beside the model itself."""


@dataclass(frozen=True, kw_only=True)
class Contested:
    """What one detector says of clean and of attacked test images.

    Scores of two models cannot be compared, p-values can; so all measures are by p-values.
    """

    detector: str
    passes: float
    """Of an image through any model, beside the one that reads it."""
    fitted: frozenset[str]
    """Names of the attacks that it was fitted on."""
    clean: Float[Tensor, " clean"]
    attacked: Mapping[Sort, Float[Tensor, " attacked"]]
    notes: tuple[str, ...] = ()
    """Why it could not be fitted to a model, which is then not among those judged."""

    def auroc(self, sort: Sort) -> Interval:
        """The chance that an attacked image has the lower p-value; equal ones count half."""
        return auroc(self.clean, self.attacked[sort])

    def stopped(self, sort: Sort | None = None) -> dict[float, Interval]:
        """The share of a sort's images that is stopped, or of the clean ones, by false-positive rate."""
        return flagged_at(self.clean if sort is None else self.attacked[sort])

    @classmethod
    def joined(cls, found: "Sequence[Contested]") -> "list[Contested]":
        """The same over several models, detector by detector."""
        together: dict[str, Contested] = {}
        for each in found:
            before = together.get(each.detector)
            together[each.detector] = each if before is None else before._with(each)
        return list(together.values())

    def _with(self, other: "Contested") -> "Contested":
        attacked = dict(self.attacked)
        for sort, p_values in other.attacked.items():
            attacked[sort] = torch.cat([attacked[sort], p_values]) if sort in attacked else p_values
        clean = torch.cat([self.clean, other.clean])
        notes, passes = self.notes + other.notes, max(self.passes, other.passes)
        return replace(self, passes=passes, clean=clean, attacked=attacked, notes=notes)


def contest(
    subject: Subject, other: nn.Module | None, *, most: int, rule: Rule = "ratio"
) -> Iterator[Contested]:
    """Bank and rivals, each with thresholds from the same held-out clean images.

    Args:
        subject: the model, its bank and images.
        other: a model of another key, in eval mode; None leaves disagreement out.
        most: images of a sort at most.
        rule: of the bank's score.

    Raises:
        DataError: there are no test images.
        StudyError: the model has no linear layer.
    """
    shown = {sort: subject.fooling(sort, most).images for sort in sorted(subject.attacked)}
    clean = torch.cat([examples.images for examples in subject.clean])
    subject.bank.check(subject.model, clean.device)  # once, which is not counted among its passes
    for name, make in _makers(subject, other, rule).items():
        try:
            judge = make()
        except DataError as error:
            yield Contested(
                detector=name,
                passes=0.0,
                fitted=frozenset(),
                clean=torch.zeros(0),
                attacked={},
                notes=(str(error),),
            )
            continue
        with _counted([subject.model, *([other] if other else [])]) as passes:
            of_clean = judge(clean).p_value.cpu()
        yield Contested(
            detector=name,
            passes=len(passes) / ceil(len(clean) / subject.bank.batch) - 1,
            fitted=subject.fitted if name == "bank" else frozenset(),
            clean=of_clean,
            attacked={sort: judge(images).p_value.cpu() for sort, images in shown.items()},
        )


def _makers(subject: Subject, other: nn.Module | None, rule: Rule) -> dict[str, Callable[[], Judge]]:
    """What makes each detector; a rival may lack the images that it needs."""
    model, batch = subject.model, subject.bank.batch
    seed, rate = derive_seed(subject.fit.seed, "contest", subject.fit.model_digest), max(RATES)
    least = subject.fit.recipe.least_held_out

    def calibrated(rival: Rival) -> Judge:
        return partial(CalibratedRival.on(rival, subject.feed.held_out, least).judge, rate=rate)

    makers: dict[str, Callable[[], Judge]] = {
        "bank": lambda: partial(subject.bank.judge, model, rate=rate, rule=rule, seed=seed),
        "feature squeezing": lambda: calibrated(FeatureSqueezing(model=model, batch=batch)),
        "Mahalanobis": lambda: calibrated(Mahalanobis.fitted(model, subject.feed.clean, batch)),
    }
    if other is not None:
        makers["disagreement"] = lambda: calibrated(Disagreement(model=model, other=other, batch=batch))
    return makers


@contextmanager
def _counted(models: Iterable[nn.Module]) -> Iterator[list[None]]:
    """One entry for each pass of a batch through one of the models, while the context lasts."""
    passes: list[None] = []
    with ExitStack() as hooks:
        for model in models:
            hooks.callback(model.register_forward_hook(lambda *_: passes.append(None)).remove)
        yield passes
