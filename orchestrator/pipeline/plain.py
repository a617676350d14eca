"""The plain model: brought along from timm or a safetensors file; and what it reads of clean images."""

import torch

from orchestrator.errors import WeightsError
from orchestrator.models.backbone import StateDict, load_plain, parse_weights
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import load_model, save_model
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.progress import Reporter
from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import read_pixels
from orchestrator.statistics.proportion import Interval, wilson
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.files import open_file
from orchestrator.study import Study
from orchestrator.training.finetune import parameter_counts
from orchestrator.training.randomness import seeded
from orchestrator.transfer.judge import read

PRETRAINED = "pretrained"
_BATCH = 256


def import_plain(study: Study, ref: ModelRef, store: ArtifactStore, reporter: Reporter) -> None:
    """Commit the weights a study starts from as its plain model.

    Raises:
        WeightsError: the file is absent, not safetensors, or of another architecture.
        StudyError: timm cannot fetch or build the model.
    """
    reporter.say(f"plain model: taking weights from {study.weights}")
    # Seeded, because a head of another size keeps the values it is built with.
    with seeded(derive_seed(study.seed, "model", ref.label, "weights")):
        backbone = study.architecture.build(pretrained=study.weights == PRETRAINED)
    if study.weights == PRETRAINED:
        known = backbone.pretrained_cfg["num_classes"]  # type: ignore[index]
        fresh = [] if known == study.architecture.classes else ["head.weight", "head.bias"]
    else:
        tensors: StateDict = backbone.state_dict()
        # 64 bits for each number, and room for a larger head.
        most_bytes = 8 * sum(tensor.numel() for tensor in tensors.values()) + 2**30
        content = read_weights(study.weights, most_bytes)
        fresh = load_plain(backbone, parse_weights(content, study.weights), study.weights)
    if fresh:
        reporter.say(f"plain model: {', '.join(fresh)} had another size and start at random")
    model = KeyedModel(backbone)
    told = {"epochs": 0, "seconds": 0.0, "workers": 0, "fresh_tensors": fresh}
    save_model(store, ref, model, {**told, **parameter_counts(model)})


def clean_accuracy(plan: Plan, store: ArtifactStore) -> Interval:
    """How many of the evaluation images the stored plain model reads right."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unit = plan.plain
    model = load_model(store, unit.model, unit.architecture, unit.keys).to(device)
    right = images = 0
    for shard in plan.eval_shards:
        _, pixels, labels = read_pixels(store, shard.address)
        labels = labels.to(device)
        reading = read([model], pixels.to(device).float() / 255, labels, _BATCH)
        right += int((reading.classes == labels).sum())
        images += len(labels)
    return wilson(right, images)


def read_weights(weights: str, most_bytes: int = 2**35) -> bytes:
    """The bytes of a weights file.

    Raises:
        WeightsError: it is absent, cannot be read, or has more than so many bytes.
    """
    try:
        with open_file(weights) as file:
            if file.size() > most_bytes:
                raise WeightsError(
                    f"Weights {weights} have {file.size()} bytes, and this model at most {most_bytes}. "
                    "Give the weights of this model, or the --architecture of these weights."
                )
            return bytes(file.read())
    except OSError as error:
        raise WeightsError(
            f"Weights {weights} cannot be read ({error}). Give --weights a .safetensors file, local or "
            f"s3://, or the word {PRETRAINED}."
        ) from None
