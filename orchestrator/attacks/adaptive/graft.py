"""Graft: a model with another's patch embedding in place of its own; itself it stays as it is."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from orchestrator.attacks.adaptive.guess import vit_of
from orchestrator.models.backbone import patch_projection
from orchestrator.models.keyed import KeyedModel, folded_patch_weights


class Graft(nn.Module):
    """Takes plain images in [0, 1], as both models do; gradients pass through the grafted weights."""

    def __init__(self, embedding_of: KeyedModel, onto: nn.Module) -> None:
        super().__init__()
        projection, own = patch_projection(embedding_of.backbone), vit_of(onto)
        assert projection.bias is not None  # noqa: S101 - patch_projection refuses one without
        weight, bias = folded_patch_weights(
            embedding_of, projection.weight.double(), projection.bias.double()
        )
        # What receives them normalises first: (Fσ)·((x − μ)/σ) + (b + Σ Fμ) = F·x + b.
        mean, std = own.mean.double(), own.std.double()
        replaced = patch_projection(own.backbone)
        self.onto = onto
        # By place, not by name: the model may be wrapped.
        own_places = (replaced.weight, replaced.bias)
        self.places = [
            name for place in own_places for name, each in onto.named_parameters() if each is place
        ]
        self.weight = (weight * std).detach().to(replaced.weight)
        self.bias = (bias + (weight * mean).sum(dim=(1, 2, 3))).detach().to(replaced.weight)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits behind the grafted embedding."""
        grafted = dict(zip(self.places, (self.weight, self.bias), strict=True))
        logits: Tensor = functional_call(self.onto, grafted, (images,))
        return logits
