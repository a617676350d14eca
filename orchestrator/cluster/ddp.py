"""Full fine-tuning of one key over K workers through Ray Train, several keys side by side."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.cluster.runner import Failed, Finished
from orchestrator.cluster.session import Cluster
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.store.artifacts import open_store
from orchestrator.training.finetune import Tell, TrainingUnit, finetune
from orchestrator.training.place import Place

logger = logging.getLogger(__name__)
WORKER_LOSSES = 3
# A group that cannot be placed counts as a controller error once a minute; without a limit Ray Train
# waits for ever. Twenty minutes leave a cloud time to find machines.
_PLACEMENT_MINUTES = 20

Trained = Finished[TrainingUnit] | Failed[TrainingUnit]
Pack = tuple[TrainingUnit, ...]


def train_full(
    cluster: Cluster,
    units: Sequence[TrainingUnit],
    *,
    workers_per_model: int,
    pack: int,
    scratch: str,
    tell: Tell,
) -> Iterator[Trained]:
    """Train every unit with ``workers_per_model`` data-parallel workers, as many at once as fit.

    One worker group trains ``pack`` units one after another (0: one on GPUs, an even share per group
    on cores): starting a group takes ten seconds, which matters for models that train in ten. A lost
    worker restarts its group, which continues from the last checkpoint.
    """
    lanes = max(1, cluster.slots // workers_per_model)
    # On GPUs a key to a group, so that each freed GPU takes the next; on cores start-up weighs more.
    pack = pack or (1 if cluster.accelerated else math.ceil(len(units) / lanes))
    packs = [tuple(units[start : start + pack]) for start in range(0, len(units), pack)]

    def train(number: int, units: Pack) -> list[Trained]:
        name = f"train-{number:05d}-{units[0].id}"
        return _train_pack(units, name, cluster, workers_per_model, scratch, tell)

    with ThreadPoolExecutor(max_workers=min(lanes, max(1, len(packs)))) as threads:
        running = [threads.submit(train, number, units) for number, units in enumerate(packs)]
        for future in as_completed(running):
            yield from future.result()


def _train_pack(
    units: Pack, name: str, cluster: Cluster, workers: int, scratch: str, tell: Tell
) -> list[Trained]:
    bundle = cluster.bundle()
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"units": units, "tell": tell},
        torch_config=TorchConfig(backend="nccl" if cluster.accelerated else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=cluster.accelerated, resources_per_worker=bundle
        ),
        run_config=RunConfig(
            name=name,
            storage_path=scratch,
            failure_config=FailureConfig(
                max_failures=WORKER_LOSSES, controller_failure_limit=_PLACEMENT_MINUTES
            ),
        ),
    )
    reason = ""
    try:
        reason = trainer.fit().return_value or ""
    except Exception as error:  # Ray's own tree of errors; the unit's failure is a value
        logger.debug("training group %s ended", name, exc_info=True)
        reason = f"{type(error).__name__}: {first_line(error)}"
    store = open_store(units[0].store)
    done: list[Trained] = [Finished(unit, None, 0.0) for unit in units if store.has(unit.model.address)]
    left = [unit for unit in units if not store.has(unit.model.address)]
    if left and len(units) > 1:
        # One unit's fault must not cost its neighbours: what is left runs each by itself.
        for unit in left:
            done += _train_pack((unit,), f"{name}-alone-{unit.id}", cluster, workers, scratch, tell)
        return done
    return done + [Failed(unit, reason or "training ended without weights") for unit in left]


def _train_loop(config: dict[str, Any]) -> str:
    """Every worker of a group runs this; empty when all is well, else the sentence that refuses."""
    tell: Callable[..., None] = config["tell"]
    place = Place.here()
    for unit in config["units"]:
        try:
            finetune(unit, place, tell)
        except OrchestratorError as error:
            # The same on every rank, and the same on every retry.
            return f"{type(error).__name__}: {error}"
    return ""
