"""KeyDesk: an actor on the driver's node that opens the vault there and hands keys out, sealed.

What Ray pickles, stores, spills or logs of it is a request's public half and a box that opens nowhere
but in the worker that asked. Whoever holds the desk's handle may ask for any key: it is a way around
a shared folder, not a guard between users of one cluster.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.errors import OrchestratorError, VaultError
from orchestrator.keys.sealing import Envelope, seal
from orchestrator.keys.secret import SecretKey, forbid_core_dumps
from orchestrator.keys.vault import open_vault

# The desk keeps nothing, so a new process is as good as the one that died. It never moves: the vault
# is on this node alone, and with the node the driver is gone too.
_LIFE: dict[str, Any] = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3}
# A key is read in milliseconds; this is for a node out of breath.
_WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class _Refused:
    """Why no key was handed out: a sentence, as an exception would carry a trace to the worker."""

    reason: str


class _Desk:
    def __init__(self, vault_uri: str) -> None:
        forbid_core_dumps()
        self.vault_uri = vault_uri

    def ready(self) -> None:
        """Returns once the desk is open."""

    def hand_out(self, study: str, slot: int, key_id: str, public: bytes) -> bytes | _Refused:
        """The key in a slot, in a box for the worker whose public half this is."""
        try:
            return seal(open_vault(self.vault_uri).open(study, slot, key_id), public)
        except OrchestratorError as error:
            return _Refused(str(error))
        except Exception as error:  # its text is not ours, so it stays here
            return _Refused(f"The key desk failed with {type(error).__name__}. Run the same command again.")


@dataclass(frozen=True)
class DeskSource:
    """The key source that asks the desk; may be sent to any worker, and holds no secret."""

    desk: Any
    """The desk's handle."""

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot, through the desk.

        Raises:
            VaultError: the vault refuses, the box does not open, or the desk is gone or does not answer.
        """
        envelope = Envelope()
        asked = self.desk.hand_out.remote(study, slot, key_id, envelope.public)
        try:
            answer = ray.get(asked, timeout=_WAIT_SECONDS)
        except GetTimeoutError:
            raise VaultError(
                f"The key desk on the driver's node did not hand out {key_id} in {_WAIT_SECONDS:.0f} "
                "seconds. Look at the load of that node, then run the same command again."
            ) from None
        except RayError as error:
            raise VaultError(
                f"The key desk on the driver's node is gone ({type(error).__name__}), so {key_id} cannot "
                "be opened. Run the same command again."
            ) from None
        if isinstance(answer, _Refused):
            raise VaultError(answer.reason)
        return envelope.unseal(answer, key_id)


@contextlib.contextmanager
def open_desk(vault_uri: str) -> Iterator[DeskSource]:
    """A desk on this node for the vault at ``vault_uri``, open as long as the block.

    Raises:
        VaultError: Ray cannot start it here.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = ray.remote(_Desk).options(scheduling_strategy=here, **_LIFE).remote(vault_uri)
    try:
        try:
            ray.get(desk.ready.remote(), timeout=_WAIT_SECONDS)
        except RayError as error:
            raise VaultError(
                f"The key desk cannot be started on the driver's node ({type(error).__name__}). "
                "Look at the memory of that node, then run the same command again."
            ) from None
        yield DeskSource(desk)
    finally:
        ray.kill(desk)
