"""Session: join the running Ray cluster, or start one on this machine; what it has, who owns it."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.cluster.devices import Devices
from orchestrator.errors import StudyError, first_line

logger = logging.getLogger(__name__)

# Read by Ray at import. Reports reach the driver within 0.2 s instead of 2 s (five epochs: 11 s less);
# worker prints are not doubled; workers keep the job's folder as theirs; nothing is sent home.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
# What a cluster that has scaled down to nothing is asked for where the user names no number; its own
# autoscaler knows its bounds, and what cannot come only waits.
_ASKED_OF_AN_EMPTY_CLUSTER = 16
AUTO = -1


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster this process has joined; what it has changes as nodes come and go."""

    gpus: Devices
    cpus: Devices
    accelerated: bool
    """Whether models go to GPUs; decided once, so that all models of a run are made alike."""
    fixed: bool = False
    """Started here for this job: it will not grow, and every worker is on this machine."""

    @property
    def devices(self) -> Devices:
        """Where models are trained and attacked: one a GPU, or one a core without GPUs."""
        return self.gpus if self.accelerated else self.cpus

    def nodes(self) -> int:
        """How many nodes are up."""
        import ray

        return sum(1 for node in ray.nodes() if node["Alive"])

    def spread(self) -> bool:
        """Whether workers may be on other machines than this one, now or once the cluster has grown."""
        return not self.fixed and (self.nodes() > 1 or not self.cpus.now() or bool(self.devices.asked))

    def placement(self, workers: int) -> str:
        """How Ray places the workers of one model: on one node, unless no node is wide enough.

        An autoscaler would otherwise serve four GPUs from four small nodes, and gradients would cross
        the network at every step.
        """
        import ray

        if not self.accelerated:
            return "PACK"
        widest = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        return "STRICT_PACK" if self.gpus.asked or widest >= workers else "PACK"

    def describe(self) -> str:
        """What the cluster has now, in a line."""
        return f"Ray: {self.nodes()} nodes, {self.gpus.now()} GPUs, {self.cpus.now()} CPUs"


@contextlib.contextmanager
def joined(address: str = "auto", gpus: int = AUTO) -> Iterator[Cluster]:
    """A cluster to run on: ``auto`` joins the one that runs or starts one here; ``local`` starts one.

    A cluster started here asks for Ray's token (kept in ~/.ray) and ends with the block; one that was
    joined stays.

    Args:
        address: the cluster.
        gpus: how many GPUs to use at most and, on a cluster that scales, to ask for; 0 uses cores.
            ``AUTO`` takes those there are; of a cluster that has scaled down to nothing it asks for GPUs.

    Raises:
        StudyError: a cluster was named, here or by ``RAY_ADDRESS``, and cannot be joined.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    alone = not _join(address)
    if alone:
        logger.info("no Ray cluster is running here: starting one on this machine")
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield _look(alone, gpus)
    finally:
        ray.shutdown()


def _look(alone: bool, gpus: int) -> Cluster:
    have = {kind: _count(kind) for kind in ("GPU", "CPU")}
    empty = not have["GPU"] and not have["CPU"]
    asked = max(0, gpus)
    if empty and gpus == AUTO:
        asked = _ASKED_OF_AN_EMPTY_CLUSTER
    return Cluster(
        gpus=Devices("GPU", lambda: _count("GPU"), asked),
        cpus=Devices("CPU", lambda: _count("CPU"), _ASKED_OF_AN_EMPTY_CLUSTER if empty else 0),
        accelerated=gpus != 0 and bool(have["GPU"] or asked),
        fixed=alone,
    )


def _count(kind: str) -> int:
    import ray

    return int(ray.cluster_resources().get(kind, 0))


def _join(address: str) -> bool:
    import ray

    if address == "local":
        return False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
        if named:  # a job meant for a cluster never runs quietly on this machine instead
            raise StudyError(
                f"The Ray cluster at {named} does not let this job in ({first_line(error)}). Look whether "
                "it runs and whether RAY_AUTH_MODE=token and its token are set here, or give --ray local."
            ) from None
        return False
    return True
