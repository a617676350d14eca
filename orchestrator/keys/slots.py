"""SlotVault: numbered slots of a study, one key each; the rules that every backend keeps."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVar

from orchestrator.errors import VaultError
from orchestrator.keys.secret import SecretKey

_Result = TypeVar("_Result")
# Seconds before a slot that is still empty is filled again: a service may refuse both of two writers
# at once, and show what was written a moment later.
_PAUSES = (0.0, 0.2, 1.0, 3.0)


class SlotVault(ABC):
    """What every vault does alike. A backend says how one slot is looked into and filled."""

    uri: str
    threads: ClassVar[int] = 1
    """Slots looked into or filled at once; more than one where each is a request to a server."""

    def ensure(self, study: str, count: int) -> tuple[str, ...]:
        """Key ids of slots 0..count-1; of two processes that fill a slot at once, both get the same key.

        Raises:
            VaultError: the vault cannot be used, or holds one key twice.
        """
        ids = self._ids(study, self._occupied(study, count))
        for pause in _PAUSES:
            empty = [slot for slot in range(count) if slot not in ids]
            if not empty:
                break
            time.sleep(pause)
            self._each(lambda slot: self._fill(study, slot), empty)
            ids |= self._ids(study, empty)
        else:
            raise VaultError(
                f"Slot {empty[0]} of study {study} was filled in vault {self.uri} and is empty. "
                "Run the same command again; if it stays so, look who deletes keys there."
            )
        if len(set(ids.values())) != len(ids):
            raise VaultError(
                f"Vault {self.uri} holds one key in two slots of study {study}. "
                "Delete the copy: one key belongs to one model."
            )
        return tuple(ids[slot] for slot in range(count))

    def find_all(self, study: str, count: int) -> tuple[str | None, ...]:
        """Key ids of slots 0..count-1, None where a slot is empty."""
        ids = self._ids(study, self._occupied(study, count))
        return tuple(ids.get(slot) for slot in range(count))

    def find(self, study: str, slot: int) -> str | None:
        """The key id in a slot, None where the slot is empty."""
        return self._ids(study, [slot]).get(slot)

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot, checked against its public id."""
        key = self._look(study, slot)
        if key is None:
            raise VaultError(
                f"Slot {slot} of study {study} is empty in vault {self.uri}. "
                "Point --vault to the vault this study was begun with."
            )
        if key.key_id != key_id:
            raise VaultError(
                f"Slot {slot} of study {study} holds {key.key_id} in vault {self.uri}, the store "
                f"expects {key_id}. Point --vault to the vault this study was begun with, "
                "or rename the study."
            )
        return key

    def _occupied(self, study: str, count: int) -> Iterable[int]:  # noqa: ARG002 - backends that list do
        """The slots below ``count`` worth a look; a backend that can list names those that are filled."""
        return range(count)

    @abstractmethod
    def _look(self, study: str, slot: int) -> SecretKey | None:
        """The key in a slot, None where it is empty; raises VaultError where it cannot be trusted."""

    @abstractmethod
    def _fill(self, study: str, slot: int) -> None:
        """Put a fresh key into a slot, unless somebody else has filled it."""

    def _ids(self, study: str, slots: Iterable[int]) -> dict[int, str]:
        def look(slot: int) -> tuple[int, str | None]:
            key = self._look(study, slot)
            return slot, key.key_id if key else None

        return {slot: key_id for slot, key_id in self._each(look, list(slots)) if key_id}

    def _each(self, step: Callable[[int], _Result], slots: list[int]) -> list[_Result]:
        if self.threads == 1 or len(slots) < 2:
            return [step(slot) for slot in slots]
        # The first error ends the map, and what has not begun is dropped.
        with ThreadPoolExecutor(min(self.threads, len(slots))) as threads:
            return list(threads.map(step, slots))


def write_key(key: SecretKey) -> str:
    """A key as vaults write it down: 64 hex digits."""
    return key.reveal().hex()


def read_key(text: str, place: str) -> SecretKey:
    """The key that ``place`` holds as 64 hex digits, space around them apart.

    Raises:
        VaultError: it holds something else, which is not quoted.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise VaultError(
            f"{place} does not hold 64 hex digits. Restore it from a backup; "
            "the model trained with it cannot be rebuilt without it."
        )
    return SecretKey(bytes.fromhex(text.strip()))
