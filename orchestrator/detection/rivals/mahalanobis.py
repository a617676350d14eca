"""Mahalanobis: how far the last features of an image are from those of the class that it is read as."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from orchestrator.detection.examples import Examples
from orchestrator.detection.readout import full_passes
from orchestrator.errors import DataError, StudyError


@dataclass(frozen=True, kw_only=True)
class Mahalanobis:
    """Lee, Lee, Lee and Shin (2018, arXiv 1807.03888) on the last features, fitted on clean images alone.

    Normal distributions of the classes with one covariance, shrunk as by Ledoit and Wolf. Their steps
    that need attacked images (noise added to the input, weights of several layers) are left out.
    """

    model: nn.Module
    means: Float[Tensor, "classes features"]
    precision: Float[Tensor, "features features"]
    batch: int = 64

    @classmethod
    def fitted(cls, model: nn.Module, clean: Iterable[Examples], batch: int = 64) -> "Mahalanobis":
        """Means and covariance of clean images that are read right.

        Args:
            model: in eval mode; its last linear layer is what reads the features.
            clean: images.
            batch: images of a pass.

        Raises:
            DataError: a class has no such image.
        """
        parts = [(read_features(model, each.images, batch), each.labels) for each in clean]
        features = torch.cat([part[1][part[0].argmax(dim=1) == labels] for part, labels in parts])
        labels = torch.cat([labels[part[0].argmax(dim=1) == labels] for part, labels in parts])
        classes = parts[0][0][0].shape[1]
        counts = torch.bincount(labels, minlength=classes)
        if not counts.all():
            raise DataError(
                f"Class {int(counts.argmin())} has no clean image that is read right. Give more."
            )
        means = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
        means = means / counts[:, None]
        apart = (features - means[labels]).cpu().numpy()
        precision = np.asarray(LedoitWolf(assume_centered=True).fit(apart).precision_)
        return cls(model=model, means=means, precision=torch.from_numpy(precision).to(means), batch=batch)

    def scores(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
        """The class read, and minus the squared distance from its mean."""
        logits, features = read_features(self.model, images, self.batch)
        classes = logits.argmax(dim=1)
        apart = features - self.means[classes]
        return classes, -((apart @ self.precision) * apart).sum(dim=1)


@torch.no_grad()
def read_features(
    model: nn.Module, images: Float[Tensor, "images 3 height width"], batch: int
) -> tuple[Float[Tensor, "images classes"], Float[Tensor, "images features"]]:
    """Logits, and what the model's last linear layer is given, in float64.

    Raises:
        StudyError: the model has no linear layer.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise StudyError(f"This model ({type(model).__name__}) has no linear layer that reads features.")
    given: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, args: given.append(args[0]))
    logits, features = [], []
    try:
        for some, count in full_passes(images, batch):
            logits.append(model(some)[:count].double())
            features.append(torch.cat(given)[:count].double())
            given.clear()
    finally:
        hook.remove()
    if not logits:
        return images.new_zeros(0, linear[-1].out_features).double(), images.new_zeros(
            0, linear[-1].in_features
        ).double()
    return torch.cat(logits), torch.cat(features)
