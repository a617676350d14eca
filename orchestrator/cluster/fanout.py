"""LoRA fine-tuning of many keys through Ray Tune: one trial per key, one GPU (or core) each or a share."""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from ray import tune

from orchestrator.cluster.board import Ended, Post
from orchestrator.cluster.ddp import WORKER_LOSSES
from orchestrator.cluster.runner import Failed, Finished
from orchestrator.cluster.session import Cluster
from orchestrator.cluster.workplace import Trained
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.store.artifacts import open_store
from orchestrator.store.scratch import Scratch
from orchestrator.training.finetune import TrainingUnit, finetune
from orchestrator.training.in_memory import Decoded
from orchestrator.training.place import Place

logger = logging.getLogger(__name__)


def train_lora(
    cluster: Cluster,
    units: Sequence[TrainingUnit],
    *,
    keys_per_device: int,
    compiled: bool,
    scratch: Scratch,
    tell: Post,
) -> Iterator[Trained]:
    """One Tune trial a unit; a trial whose worker is lost continues from its last checkpoint.

    Trials carry key ids only. Their processes are reused, which saves six seconds of imports a key:
    all that belongs to a key lives in local names of ``finetune`` and is gone when it returns. Images,
    which belong to none, stay decoded from trial to trial.
    """
    by_label = {unit.id: unit for unit in units}
    try:
        share = cluster.devices.bundle(sharing=keys_per_device)
        reasons = _run_trials(share, by_label, compiled, scratch, tell)
    except Exception as error:  # Tune's own end, where the store is out of reach for its bookkeeping
        logger.debug("Tune ended", exc_info=True)
        reasons = dict.fromkeys(by_label, f"{type(error).__name__}: {first_line(error)}")
    store = open_store(units[0].store)
    for unit in units:
        if store.has(unit.model.address):
            yield Finished(unit, None, 0.0)
        else:
            yield Failed(unit, reasons.get(unit.id) or "its trial never ran")


def _run_trials(
    share: dict[str, float],
    units: dict[str, TrainingUnit],
    compiled: bool,
    scratch: Scratch,
    tell: Post,
) -> dict[str, str]:
    """Train all units; by their ids, why a unit is not trained, empty where it is."""
    trainable = tune.with_resources(
        functools.partial(_trial, units=units, compiled=compiled, tell=tell),
        {name.lower(): amount for name, amount in share.items()},
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"model": tune.grid_search(list(units))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=0),
        run_config=tune.RunConfig(
            name="lora",
            storage_path=scratch.path,
            storage_filesystem=scratch.system,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=WORKER_LOSSES),
        ),
    )
    return {result.config["model"]: _reason(result) for result in tuner.fit() if result.config}


def _trial(
    config: dict[str, Any], units: dict[str, TrainingUnit], compiled: bool, tell: Post
) -> dict[str, str]:
    try:
        first = finetune(units[config["model"]], Place.here(compiled=compiled), tell, _decoded())
    except OrchestratorError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    tell(Ended(config["model"], first))
    return {"refused": ""}


@functools.cache
def _decoded() -> Decoded:
    """The images of this process: Tune gives its trials no other place to share one."""
    return Decoded()


def _reason(result: Any) -> str:
    if result.error is not None:
        return f"{type(result.error).__name__}: {first_line(result.error)}"
    return str((result.metrics or {}).get("refused", ""))
