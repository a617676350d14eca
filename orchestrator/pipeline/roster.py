"""The study's keys: created in the vault, their public ids recorded in the store."""

from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import VaultError
from orchestrator.keys.vault import KeyVault, open_vault
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study


def ensure_keys(study: Study, store: ArtifactStore, vault_uri: str) -> tuple[str, ...]:
    """Create the study's keys where they are missing; record their public ids.

    Raises:
        VaultError: the vault lacks a key the store recorded, or holds another. Nothing is created.
    """
    vault = open_vault(vault_uri)
    for address in store.addresses("keys"):
        _check_recorded(study, store, vault, vault_uri, address)
    key_ids = vault.ensure(study.name, study.n_keys)
    for slot, key_id in enumerate(key_ids):
        address, recipe = f"keys/{slot:05d}", {"slot": slot, "key_id": key_id}
        if not store.has(address):
            store.commit(address, ArtifactRecord(recipe=recipe, files={}), {})
        _check_recorded(study, store, vault, vault_uri, address)
    return key_ids


def _check_recorded(
    study: Study, store: ArtifactStore, vault: KeyVault, vault_uri: str, address: str
) -> None:
    recorded = store.record(address).recipe
    found = vault.find(study.name, recorded["slot"])
    if found != recorded["key_id"]:
        raise VaultError(
            f"Slot {recorded['slot']} of study {study.name} is {recorded['key_id']} by the store and "
            f"{found or 'empty'} in vault {vault_uri}. Point --vault to the vault this study was begun "
            "with, or use another --name."
        )


def known_keys(study: Study, vault_uri: str) -> tuple[str, ...]:
    """The public ids of the keys the vault has, and placeholders for those it would create."""
    vault = open_vault(vault_uri)
    return tuple(vault.find(study.name, slot) or f"new-{slot:05d}" for slot in range(study.n_keys))


def check_apart(store_uri: str, vault_uri: str) -> None:
    """Raise VaultError if a folder vault lies inside the store's root, or the root inside it.

    Args:
        store_uri: the study's part of the store, one level below its root.
        vault_uri: the vault.
    """
    if urlsplit(store_uri).scheme not in ("", "file") or urlsplit(vault_uri).scheme not in (
        "",
        "file",
    ):
        return
    root, vault = _folder(store_uri).parent, _folder(vault_uri)
    if vault.is_relative_to(root) or root.is_relative_to(vault):
        raise VaultError(
            f"Vault {vault} and store {root} lie inside one another: who may read artifacts could then "
            "read keys. Name another --vault."
        )


def _folder(uri: str) -> Path:
    """A folder with links and dots resolved, so that no detour hides where it is."""
    return Path(uri.removeprefix("file://")).expanduser().resolve()
