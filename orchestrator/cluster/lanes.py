"""Lanes: worker groups side by side, as many as there is room for; one without a place waits its turn."""

import logging
import queue
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from threading import Thread

from orchestrator.cluster.devices import Devices
from orchestrator.cluster.runner import Failed
from orchestrator.cluster.workplace import Trained
from orchestrator.errors import first_line
from orchestrator.training.finetune import TrainingUnit

logger = logging.getLogger(__name__)
_PLACEMENT_TRIES = 3
_TICK_SECONDS = 1.0

Pack = tuple[TrainingUnit, ...]
Train = Callable[[str, Pack], list[Trained]]


class Unplaced(Exception):  # noqa: N818
    """The cluster had no place for a worker group, for as long as one waits."""


class Lanes:
    """Worker groups side by side: as many as the cluster has room for, whatever it is just now."""

    def __init__(self, devices: Devices, workers: int, train: Train) -> None:
        self.devices, self.workers, self.train = devices, workers, train
        self.ended: queue.SimpleQueue[tuple[Pack, int, list[Trained] | Unplaced]] = queue.SimpleQueue()

    def run(
        self, packs: Sequence[Pack], begun: Container[str], all_begun: Callable[[], None]
    ) -> Iterator[Trained]:
        """Every unit of every pack once.

        Args:
            packs: units that share a worker group.
            begun: ids of units whose workers have begun; filled while this runs.
            all_begun: called while no pack waits for a lane or a place.
        """
        waiting = deque((pack, 1) for pack in packs)
        running: set[str] = set()
        # Training wants devices for what waits, too: attacks take what not even that would use.
        self.devices.want(self.workers * len(packs))
        while waiting or running:
            while waiting and len(running) < max(1, self.devices.most() // self.workers):
                pack, tries = waiting.popleft()
                Thread(target=self._lane, args=(pack, tries), daemon=True).start()
                running.add(pack[0].id)
            if not waiting and all(first in begun for first in running):
                all_begun()
            try:
                pack, tries, came_to = self.ended.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                continue
            running.remove(pack[0].id)
            if isinstance(came_to, Unplaced) and tries < _PLACEMENT_TRIES:
                logger.warning("no place for %s yet: trying again later", pack[0].id)
                waiting.append((pack, tries + 1))
                continue
            self.devices.want(-self.workers)
            if isinstance(came_to, Unplaced):
                came_to = [Failed(unit, str(came_to)) for unit in pack]
            yield from came_to

    def _lane(self, pack: Pack, tries: int) -> None:
        try:
            came_to: list[Trained] | Unplaced = self.train(f"train-{pack[0].id}-{tries}", pack)
        except Unplaced as unplaced:
            came_to = unplaced
        except Exception as error:  # a thread's error would be lost; here it fails its pack
            came_to = [Failed(unit, f"{type(error).__name__}: {first_line(error)}") for unit in pack]
        self.ended.put((pack, tries, came_to))
