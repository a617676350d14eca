"""Node probe: what every node of a cluster says of itself, seen by a small task that is sent there."""

import json
import os
import platform
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.errors import OrchestratorError
from orchestrator.keys.vault import open_vault
from orchestrator.store.artifacts import open_store
from orchestrator.store.record import ArtifactRecord

_PACKAGES = ("multikey-orchestrator", "ray", "torch", "timm", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What a node is asked to try. Holds no secret."""

    store: str
    """URI of a store that a worker may write to."""
    address: str
    """An artifact in it."""
    file: str
    """A payload file of that artifact."""
    vault: str = ""
    """URI of the vault where workers open it themselves; empty where they do not."""
    study: str = ""
    slot: int = 0
    key_id: str = ""
    """A key to find there."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """One node, as a process there saw it."""

    name: str
    gpus: int = 0
    """GPUs that Ray counts there."""
    gpus_seen: int = 0
    """GPUs that torch sees there; not looked at where Ray counts none."""
    versions: tuple[tuple[str, str], ...] = ()
    seconds_ahead: float = 0.0
    """Its clock against the driver's, network included."""
    troubles: tuple[str, ...] = ()
    """Sentences: why it cannot work."""


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Who is let into the cluster."""

    token: bool
    """Whether Ray asks for its token."""
    dashboard: str
    """Host and port of the dashboard; empty where there is none."""
    far: bool
    """Whether there are nodes beyond this machine."""


def versions_here() -> tuple[tuple[str, str], ...]:
    """Versions of what has to be the same on every node."""
    return (("python", platform.python_version()), *((p, metadata.version(p)) for p in _PACKAGES))


def doors() -> Doors:
    """How the cluster that this process has joined is closed."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    dashboard = ray._private.worker.get_dashboard_url() or ""  # there is no public name for it
    here = ray.util.get_node_ip_address()
    far = any(node["NodeManagerAddress"] not in (here, "127.0.0.1", node["NodeID"]) for node in alive)
    return Doors(token=_asks_for_token(dashboard), dashboard=dashboard, far=far)


def _asks_for_token(dashboard: str) -> bool:
    """What the head says; where it cannot be asked, what this driver was told: both sides go by that."""
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/authentication_mode", timeout=5) as reply:
            return bool(json.load(reply)["authentication_mode"] == "token")
    except (OSError, ValueError, LookupError):
        return bool(is_token_auth_enabled())


def visit_nodes(errand: Errand, seconds: float) -> list[NodeReport]:
    """Every node that is up, in the order of their names; one that does not answer in time says so.

    Args:
        errand: what to try there.
        seconds: how long to wait for all of them.
    """
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    # A process of its own, which ends afterwards: torch must find GPUs that Ray has not given it.
    look = ray.remote(max_calls=1, num_cpus=0, max_retries=0)(_look)
    sent = []
    for node in alive:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        gpus = int(node["Resources"].get("GPU", 0))
        sent.append(look.options(scheduling_strategy=there).remote(errand, _name(node), gpus, time.time()))
    answered, _ = ray.wait(sent, num_returns=len(sent), timeout=seconds) if sent else ([], [])
    return [_report(node, task, task in answered, seconds) for node, task in zip(alive, sent, strict=True)]


def _report(node: dict[str, Any], task: Any, answered: bool, seconds: float) -> NodeReport:
    name = _name(node)
    if not answered:
        ray.cancel(task, force=True)
        return NodeReport(name=name, troubles=(f"no worker answered there within {seconds:.0f} s",))
    try:
        report: NodeReport = ray.get(task)
    except RayError as error:
        told = f"a worker there ended by {type(error).__name__}: is this project installed on it?"
        return NodeReport(name=name, troubles=(told,))
    return report


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress'][:15]} ({node['NodeID'][:6]})"


def _look(errand: Errand, name: str, gpus: int, sent_at: float) -> NodeReport:
    ahead = time.time() - sent_at
    return NodeReport(
        name=name,
        gpus=gpus,
        gpus_seen=_gpus_seen() if gpus else 0,
        versions=versions_here(),
        seconds_ahead=ahead,
        troubles=tuple(_troubles(errand, name)),
    )


def _troubles(errand: Errand, name: str) -> Sequence[str]:
    troubles = []
    try:
        store = open_store(errand.store)
        store.read(errand.address, errand.file)
        store.commit(f"nodes/{name[-7:-1]}", ArtifactRecord(recipe={}, files={}), {})
    except OrchestratorError as error:
        troubles.append(f"store: {error}")
    if errand.vault:
        try:
            open_vault(errand.vault).open(errand.study, errand.slot, errand.key_id)
        except OrchestratorError as error:
            troubles.append(f"vault: {error}")
    return troubles


def _gpus_seen() -> int:
    # This task has asked for no GPU, so Ray hides them; the process ends with it.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    return torch.cuda.device_count()
