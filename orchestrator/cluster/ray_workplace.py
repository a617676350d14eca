"""RayWorkplace: full fine-tunes on Ray Train, adapters on Ray Tune, units on the actor pool."""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.cluster.actor_pool import ActorPoolRunner
from orchestrator.cluster.board import Board
from orchestrator.cluster.ddp import train_full
from orchestrator.cluster.fanout import train_lora
from orchestrator.cluster.runner import Failed, Finished, MakeWorker, Unit
from orchestrator.cluster.session import Cluster
from orchestrator.errors import StudyError
from orchestrator.training.finetune import Tell, TrainingUnit

_POLL_SECONDS = 0.5


class RayWorkplace:
    """The cluster this process has joined.

    Args:
        cluster: what it has.
        workers_per_model: data-parallel workers of one full fine-tune, one GPU each.
        pack: models one worker group trains in turn.
        actors: attack actors at most; 0 is one a slot.
        scratch: a folder all nodes share, for Ray's own bookkeeping; emptied after each training.

    Raises:
        StudyError: a model needs more workers than a cluster of fixed size has.
    """

    def __init__(
        self, cluster: Cluster, *, workers_per_model: int, pack: int, actors: int, scratch: str
    ) -> None:
        self.cluster = cluster
        self.workers_per_model, self.pack, self.scratch = workers_per_model, pack, scratch
        self.pool = ActorPoolRunner(cluster, actors)
        if cluster.fixed and workers_per_model > cluster.slots:
            raise StudyError(
                f"--workers-per-model is {workers_per_model}, and this machine has {cluster.slots} "
                f"{'GPUs' if cluster.accelerated else 'cores'}. Give at most that many."
            )

    @property
    def description(self) -> str:
        """What the cluster has."""
        have = self.cluster
        return f"Ray: {have.nodes} nodes, {have.gpus} GPUs, {have.cpus} CPUs"

    def train(
        self, units: Sequence[TrainingUnit], tell: Tell
    ) -> Iterator[Finished[TrainingUnit] | Failed[TrainingUnit]]:
        """Train units of one method.

        Raises:
            StudyError: a batch cannot be shared evenly by the workers of a model.
        """
        if not units:
            return
        for unit in units:
            if unit.model.method != "lora" and unit.recipe.batch_size % self.workers_per_model:
                raise StudyError(
                    f"A batch of {unit.recipe.batch_size} images cannot be shared by "
                    f"{self.workers_per_model} workers. Choose --workers-per-model that divides it."
                )
        with _told(tell) as board, self._scratch() as scratch:
            if units[0].model.method == "lora":
                yield from train_lora(self.cluster, units, scratch=scratch, tell=board.post)
            else:
                yield from train_full(
                    self.cluster,
                    units,
                    workers_per_model=self.workers_per_model,
                    pack=self.pack,
                    scratch=scratch,
                    tell=board.post,
                )

    def work(
        self, make_worker: MakeWorker[Unit], units: Sequence[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Run units on the actor pool."""
        yield from self.pool.run(make_worker, units)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        """Ray's trial folders, gone afterwards: nothing is ever read back from them."""
        root = Path(self.scratch)
        root.mkdir(parents=True, mode=0o700, exist_ok=True)
        own = tempfile.mkdtemp(dir=root)
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)
            with contextlib.suppress(OSError):  # another driver's trial folders are still there
                root.rmdir()


@contextlib.contextmanager
def _told(tell: Tell) -> Iterator[Board]:
    """A board whose lines are told in this process while the block runs."""
    board, ended = Board(), threading.Event()

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            for line in board.collect():
                tell(line)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield board
    finally:
        ended.set()
        follower.join()
        for line in board.collect():
            tell(line)
        board.close()
