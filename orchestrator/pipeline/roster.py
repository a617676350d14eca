"""The study's keys: created in the vault, their public ids recorded in the store."""

from pathlib import Path

from orchestrator.errors import VaultError
from orchestrator.keys.vault import open_vault
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study


def ensure_keys(study: Study, store: ArtifactStore, vault_uri: str) -> tuple[str, ...]:
    """Create the study's keys where they are missing; record their public ids.

    Raises:
        VaultError: the vault is inside the store, or holds other keys than the store recorded.
    """
    check_apart(store.uri, vault_uri)
    key_ids = open_vault(vault_uri).ensure(study.name, study.n_keys)
    for slot, key_id in enumerate(key_ids):
        address, recipe = f"keys/{slot:05d}", {"slot": slot, "key_id": key_id}
        if not store.has(address):
            store.commit(address, ArtifactRecord(recipe=recipe, files={}), {})
        recorded = store.record(address).recipe.get("key_id")
        if recorded != key_id:
            raise VaultError(
                f"Slot {slot} of study {study.name} is {recorded} by the store and {key_id} by vault "
                f"{vault_uri}. Point --vault to the vault this study was begun with, or use another --name."
            )
    return key_ids


def known_keys(study: Study, vault_uri: str) -> tuple[str, ...]:
    """The public ids of the keys the vault has, and placeholders for those it would create."""
    vault = open_vault(vault_uri)
    return tuple(vault.find(study.name, slot) or f"new-{slot:05d}" for slot in range(study.n_keys))


def check_apart(store_uri: str, vault_uri: str) -> None:
    """Raise VaultError if a folder vault lies inside the store, or the store inside it."""
    store, vault = (
        Path(uri.removeprefix("file://")).expanduser().absolute() for uri in (store_uri, vault_uri)
    )
    if vault.is_relative_to(store) or store.is_relative_to(vault):
        raise VaultError(
            f"Vault {vault} and store {store} lie inside one another: who may read artifacts could then "
            "read keys. Name another --vault."
        )
