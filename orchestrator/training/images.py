"""Training images opened: in memory, or streamed where the recipe crops and distorts originals."""

from collections.abc import Sequence

from orchestrator.errors import StudyError
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.training.batches import Batches
from orchestrator.training.in_memory import Decoded, InMemoryImages
from orchestrator.training.place import Place
from orchestrator.training.recipe import Recipe
from orchestrator.training.streamed import StreamedImages


def open_batches(
    store: ArtifactStore,
    shards: Sequence[str],
    recipe: Recipe,
    place: Place,
    decoded: Decoded,
    *,
    seed: int,
    image_size: int,
) -> Batches:
    """The training images at these shard addresses, as one process of a group gets them.

    Raises:
        StudyError: the global batch cannot be shared evenly.
        DataError: it exceeds the training images.
    """
    if recipe.batch_size % place.size:
        raise StudyError(
            f"A batch of {recipe.batch_size} images cannot be shared by {place.size} workers. "
            "Choose --workers-per-model that divides --recipe.batch-size."
        )
    if recipe.augment == "inception":
        return StreamedImages(
            store.uri,
            shards,
            recipe,
            place.share,
            place.device,
            seed=seed,
            image_size=image_size,
            loaders=place.loaders,
        )
    images = decoded.get(store, shards, place.device)
    return InMemoryImages(images, recipe, place.share, place.device, seed=seed)
