"""Full fine-tuning of one key over K workers through Ray Train, several keys side by side."""

import logging
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorDiedError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from orchestrator.cluster.board import Begun, Ended, Post
from orchestrator.cluster.lanes import Lanes, Pack, Unplaced
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
# A spot market may take a long training's workers many times; each loss costs an epoch at most.
WORKER_LOSSES = 8
# A group that cannot be placed counts as a controller error once a minute; without a limit Ray Train
# waits for ever. Twenty minutes leave a cloud time to find machines.
_PLACEMENT_MINUTES = 20
# How many controllers of a group may die before it is given up.
_CONTROLLERS = 4


def train_full(
    cluster: Cluster,
    units: Sequence[TrainingUnit],
    *,
    workers_per_model: int,
    compiled: bool,
    pack: int,
    scratch: Scratch,
    tell: Post,
    begun: Container[str],
    all_begun: Callable[[], None],
) -> Iterator[Trained]:
    """Train every unit with ``workers_per_model`` data-parallel workers, as many at once as fit now.

    One worker group trains ``pack`` units one after another (0: one on GPUs, an even share per group
    on cores): starting a group takes ten seconds, which matters for models that train in ten. A lost
    worker restarts its group, which continues from the last checkpoint. A group that finds no place
    goes to the end of the line. ``all_begun`` is called while every group that is left has its place:
    its first unit's id is in ``begun``.
    """
    lanes = max(1, cluster.devices.most() // workers_per_model)
    # On GPUs a key to a group, so that each freed GPU takes the next; on cores start-up weighs more.
    pack = pack or (1 if cluster.accelerated else math.ceil(len(units) / lanes))
    packs = [tuple(units[start : start + pack]) for start in range(0, len(units), pack)]

    group = _Group(cluster, workers_per_model, scratch, {"tell": tell, "compiled": compiled})

    def train(name: str, units: Pack) -> list[Trained]:
        return _train_pack(units, name, group)

    side_by_side = Lanes(cluster.devices, workers_per_model, train)
    yield from side_by_side.run(packs, begun, all_begun)


@dataclass(frozen=True)
class _Group:
    """What all worker groups of a run have in common."""

    cluster: Cluster
    workers: int
    scratch: Scratch
    config: Mapping[str, Any]


def _train_pack(units: Pack, name: str, group: _Group) -> list[Trained]:
    reason = _fit(units, name, group)
    store = open_store(units[0].store)
    done: list[Trained] = [Finished(unit, None, 0.0) for unit in units if store.has(unit.model.address)]
    left = [unit for unit in units if not store.has(unit.model.address)]
    if left and len(units) > 1:
        # One unit's fault must not cost its neighbours: what is left runs each by itself.
        for unit in left:
            done += _train_pack((unit,), f"{name}-alone-{unit.id}", group)
        return done
    return done + [Failed(unit, reason or "training ended without weights") for unit in left]


def _fit(units: Pack, name: str, group: _Group) -> str:
    """Run one worker group to its end; empty when all is well, else why not.

    Raises:
        Unplaced: the cluster had no place for it.
    """
    cluster, reason = group.cluster, ""
    for _ in range(_CONTROLLERS):
        try:
            return _trainer(units, name, group).fit().return_value or ""
        except ActorDiedError as error:
            # Of the controller: its node went, or it met passing trouble as it asked the store, which Ray
            # does once and without our patience. What was trained is in checkpoints.
            reason = f"{type(error).__name__}: {first_line(error)}"
        except Exception as error:  # Ray's own tree of errors; the unit's failure is a value
            logger.debug("training group %s ended", name, exc_info=True)
            if isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
                raise Unplaced(
                    f"no place for {group.workers} × {cluster.devices.kind} came free within "
                    f"{_PLACEMENT_MINUTES} minutes; the cluster has {cluster.devices.now()}"
                ) from None
            return f"{type(error).__name__}: {first_line(error)}"
    return reason


def _trainer(units: Pack, name: str, group: _Group) -> TorchTrainer:
    cluster, scratch = group.cluster, group.scratch
    return TorchTrainer(
        _train_loop,
        train_loop_config={"units": units, **group.config},
        torch_config=TorchConfig(backend="nccl" if cluster.accelerated else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=group.workers,
            use_gpu=cluster.accelerated,
            resources_per_worker=cluster.devices.bundle(),
            placement_strategy=cluster.placement(group.workers),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=scratch.path,
            storage_filesystem=scratch.system,
            failure_config=FailureConfig(
                max_failures=WORKER_LOSSES, controller_failure_limit=_PLACEMENT_MINUTES
            ),
        ),
    )


def _train_loop(config: dict[str, Any]) -> str:
    """Every worker of a group runs this; empty when all is well, else the sentence that refuses."""
    tell: Post = config["tell"]
    place, decoded = Place.here(compiled=config["compiled"]), Decoded()
    for unit in config["units"]:
        if place.rank == 0:
            tell(Begun(unit.id))
        try:
            first = finetune(unit, place, tell, decoded)
        except OrchestratorError as error:
            # The same on every rank, and the same on every retry.
            return f"{type(error).__name__}: {error}"
        if place.rank == 0:
            tell(Ended(unit.id, first))
    return ""
