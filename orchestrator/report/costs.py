"""What every model took: its training, and the attacks on it."""

import math

from orchestrator.models.ref import PLAIN
from orchestrator.report.summary import ModelLine, StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, duration, method_words


def cost_table(summary: StudySummary) -> Table:
    """Training and attack time by model, then the attacks on ensembles."""
    left = dict(summary.attack_seconds)
    rows = []
    for model in summary.models:
        attacked = left.pop(_label(model), math.nan)
        millions = f"{model.trainable_parameters / 1e6:.2f}"
        trained = [f"{model.epochs}", duration(model.seconds)]
        rows.append([model.name, method_words(model.method), millions, *trained, duration(attacked)])
    for label, seconds in left.items():
        name, _, method = label.rpartition(".")
        rows.append([name, method_words(method), NONE, NONE, NONE, duration(seconds)])
    return Table(
        title="Cost of every model",
        note="Trained parameters in millions. Attack: wall time of all attacks on the model and of reading "
        "its images on every target, summed over workers.",
        header=["Model", "Fine-tune", "Trained", "Epochs", "Training", "Attack"],
        rows=rows,
        words=2,
    )


def _label(model: ModelLine) -> str:
    return model.name if model.method == PLAIN else f"{model.name}.{model.method}"
