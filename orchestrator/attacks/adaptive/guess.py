"""Guess: what an attacker who lacks the key works with: a shuffle of his own before a model he has."""

from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.attacks.source import Source
from orchestrator.errors import StudyError
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.transform import BlockShuffle


class Guess(nn.Module):
    """A model behind a shuffle that was guessed; takes plain images in [0, 1]."""

    def __init__(self, shuffle: BlockShuffle, model: nn.Module) -> None:
        super().__init__()
        self.shuffle, self.model = shuffle, model

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """The model's logits of shuffled images."""
        logits: Tensor = self.model(self.shuffle(images))
        return logits


def known_block_size(source: Source) -> int:
    """The side of the shuffled blocks.

    Raises:
        StudyError: the attacker was not told.
    """
    if not source.knowledge.block_size:
        raise StudyError("This attack must know the block size of the keyed models. Give it to the source.")
    return source.knowledge.block_size


def known_plain(source: Source) -> nn.Module:
    """The public model that the keyed ones were tuned from.

    Raises:
        StudyError: the attacker has none.
    """
    if source.knowledge.plain is None:
        raise StudyError("This attack starts from the public plain model. Give it to the source.")
    return source.knowledge.plain


def vit_of(model: nn.Module) -> KeyedModel:
    """The ViT of a model, wrapped or not, with its normalisation.

    Raises:
        StudyError: there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, KeyedModel)), None)
    if found is None:
        raise StudyError(
            f"This attack reads the patch embedding of a ViT, which a {type(model).__name__} does not "
            "have. Attack a keyed model, and give the source the plain one it was tuned from."
        )
    return found
