"""RayWorkplace: full fine-tunes on Ray Train, adapters on Ray Tune, units on the actor pool."""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from threading import Event

from orchestrator.cluster.actor_pool import ActorPoolRunner
from orchestrator.cluster.board import Begun, Board, Ended, Post
from orchestrator.cluster.ddp import train_full
from orchestrator.cluster.fanout import train_lora
from orchestrator.cluster.key_desk import open_desk
from orchestrator.cluster.merge import merged
from orchestrator.cluster.meter import Meter
from orchestrator.cluster.ray_meter import open_meter
from orchestrator.cluster.runner import Feed, Finished, MakeWorker, Unit
from orchestrator.cluster.session import Cluster
from orchestrator.cluster.workplace import Trained, Worked
from orchestrator.errors import StudyError
from orchestrator.keys.vault import KeySource, VaultAt
from orchestrator.store.scratch import Scratch, scratch
from orchestrator.store.uri import is_folder
from orchestrator.training.finetune import Tell, TrainingUnit

_POLL_SECONDS = 0.5


class RayWorkplace:
    """The cluster this process has joined.

    Args:
        cluster: what it has.
        store: the study's store; Ray's own bookkeeping goes into a folder of it, which goes afterwards.
        workers_per_model: data-parallel workers of one full fine-tune, one GPU each.
        pack: models one worker group trains in turn.
        keys_per_device: LoRA models that one device trains at once.
        actors: attack actors at most; 0 is as many as there are devices.
        shared_folders: all nodes mount the folders named as store and vault at the same path.
        compiled: models are trained through torch.compile.

    Raises:
        StudyError: a model needs more workers than a cluster of fixed size has, or the store is a
            folder that other nodes would not see.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: str,
        *,
        workers_per_model: int,
        pack: int,
        keys_per_device: int = 1,
        actors: int,
        shared_folders: bool = False,
        compiled: bool = False,
    ) -> None:
        self.cluster, self.store, self.shared_folders = cluster, store, shared_folders
        self.compiled = compiled
        self.workers_per_model, self.pack, self.actors = workers_per_model, pack, actors
        self.keys_per_device = keys_per_device
        have = cluster.devices.most()
        if cluster.fixed and workers_per_model > have:
            raise StudyError(
                f"--workers-per-model is {workers_per_model}, and this machine has {have} "
                f"{'GPUs' if cluster.accelerated else 'cores'}. Give at most that many."
            )
        if is_folder(store) and not shared_folders and cluster.spread():
            raise StudyError(
                f"The store {store} is a folder of this machine, and the cluster has other nodes, which "
                "would not see it. Give --store s3://bucket/prefix, or --shared-folders if every node "
                "mounts that folder at the same path."
            )

    @property
    def description(self) -> str:
        """What the cluster has."""
        return self.cluster.describe()

    def meter(self) -> AbstractContextManager[Meter]:
        """The metrics port of this node."""
        return open_meter()

    def keys(self, vault: str) -> AbstractContextManager[KeySource]:
        """Remote vaults are opened by each worker; a folder vault by an actor on this machine."""
        if not is_folder(vault) or self.shared_folders or self.cluster.fixed:
            return contextlib.nullcontext(VaultAt(vault))
        return open_desk(vault)

    def train(self, units: Sequence[TrainingUnit], tell: Tell) -> Iterator[Trained]:
        """Train units of any methods: full fine-tunes first, adapters on the devices they leave.

        Raises:
            StudyError: a batch cannot be shared evenly by the workers of a model.
        """
        by_id = {unit.id: unit for unit in units}
        full = [unit for unit in units if unit.model.method != "lora"]
        lora = [unit for unit in units if unit.model.method == "lora"]
        for unit in full:
            if unit.recipe.batch_size % self.workers_per_model:
                raise StudyError(
                    f"A batch of {unit.recipe.batch_size} images cannot be shared by "
                    f"{self.workers_per_model} workers. Choose --workers-per-model that divides it."
                )
        with _opened() as board, scratch(self.store) as place:
            begun: set[str] = set()
            ended = Event()
            streams = [
                functools.partial(self._train, full, lora, place, board.post, begun, ended),
                functools.partial(_follow, board, by_id, tell, begun, ended),
            ]
            adapters = {unit.id for unit in lora}
            self.cluster.devices.want(self._for_lora(len(adapters)))
            try:
                for account in merged(streams):
                    # Told by its worker as it ended, then again by the training it was part of.
                    if by_id.pop(account.unit.id, None) is not None:
                        if account.unit.id in adapters:
                            before = self._for_lora(len(adapters))
                            adapters.remove(account.unit.id)
                            self.cluster.devices.want(self._for_lora(len(adapters)) - before)
                        yield account
            finally:
                self.cluster.devices.want(-self._for_lora(len(adapters)))

    def work(
        self, make_worker: MakeWorker[Unit], feed: Feed[Unit], *, on_cores: bool = False
    ) -> Iterator[Worked[Unit]]:
        """Run units on the actor pool."""
        devices = self.cluster.cpus if on_cores else self.cluster.devices
        yield from ActorPoolRunner(devices, self.actors).run(make_worker, feed)

    def together(
        self, training: Iterator[Trained], work: Iterator[Worked[Unit]]
    ) -> Iterator[Trained | Worked[Unit]]:
        """Side by side; attacks take the devices that training leaves."""
        yield from merged([lambda: training, lambda: work])

    def _for_lora(self, models: int) -> int:
        """Devices that so many LoRA models take."""
        return math.ceil(models / self.keys_per_device)

    def _train(
        self,
        full: Sequence[TrainingUnit],
        lora: Sequence[TrainingUnit],
        place: Scratch,
        tell: Post,
        begun: set[str],
        ended: Event,
    ) -> Iterator[Trained]:
        """Adapters begin when no full fine-tune waits for place: small takers would starve a big one."""
        all_begun = Event()
        if not full:
            all_begun.set()

        def full_models() -> Iterator[Trained]:
            try:
                yield from train_full(
                    self.cluster,
                    full,
                    workers_per_model=self.workers_per_model,
                    compiled=self.compiled,
                    pack=self.pack,
                    scratch=place,
                    tell=tell,
                    begun=begun,
                    all_begun=all_begun.set,
                )
            finally:
                all_begun.set()

        def adapters() -> Iterator[Trained]:
            all_begun.wait()
            yield from train_lora(
                self.cluster,
                lora,
                keys_per_device=self.keys_per_device,
                compiled=self.compiled,
                scratch=place,
                tell=tell,
            )

        try:
            yield from merged([*([full_models] if full else []), *([adapters] if lora else [])])
        finally:
            ended.set()


def _follow(
    board: Board, units: dict[str, TrainingUnit], tell: Tell, begun: set[str], ended: Event
) -> Iterator[Trained]:
    """Tell what workers leave on the board; a unit is finished as soon as its worker says so."""
    last = False
    while not last:
        last = ended.wait(_POLL_SECONDS)
        for line in board.collect():
            if isinstance(line, Begun):
                begun.add(line.model)
            elif not isinstance(line, Ended):
                tell(line)
            elif (unit := units.get(line.model)) is not None:
                yield Finished(unit, line.first, 0.0)


@contextlib.contextmanager
def _opened() -> Iterator[Board]:
    board = Board()
    try:
        yield board
    finally:
        board.close()
