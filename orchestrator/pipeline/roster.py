"""The study's keys: created in the vault, their public ids recorded in the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import urlsplit

from orchestrator.errors import VaultError
from orchestrator.keys.vault import open_vault
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study


def ensure_keys(study: Study, store: ArtifactStore, vault_uri: str) -> tuple[str, ...]:
    """Create the study's keys where they are missing; record their public ids.

    Raises:
        VaultError: the vault lacks a key the store recorded, or holds another. Nothing is created.
    """
    vault = open_vault(vault_uri)
    recorded = recorded_keys(store)
    most = max([study.n_keys, *(slot + 1 for slot in recorded)])
    _check(study, recorded, vault.find_all(study.name, most), vault_uri)
    key_ids = vault.ensure(study.name, study.n_keys)
    fresh = [slot for slot in range(study.n_keys) if slot not in recorded]
    for slot in fresh:
        recipe = {"slot": slot, "key_id": key_ids[slot]}
        store.commit(f"keys/{slot:05d}", ArtifactRecord(recipe=recipe, files={}), {})
    if fresh:  # another driver with another vault may have been first
        _check(study, recorded_keys(store), vault.find_all(study.name, most), vault_uri)
    return key_ids


def recorded_keys(store: ArtifactStore) -> dict[int, str]:
    """The public ids of the study's keys by slot, as the store has them."""
    recipes = [record.recipe for record in read_records(store, "keys").values()]
    return {recipe["slot"]: recipe["key_id"] for recipe in recipes}


def _check(study: Study, recorded: Mapping[int, str], found: Sequence[str | None], vault_uri: str) -> None:
    for slot, key_id in sorted(recorded.items()):
        if found[slot] != key_id:
            raise VaultError(
                f"Slot {slot} of study {study.name} is {key_id} by the store and "
                f"{found[slot] or 'empty'} in vault {vault_uri}. Point --vault to the vault this study was "
                "begun with, or use another --name."
            )


def known_keys(study: Study, vault_uri: str) -> tuple[str, ...]:
    """The public ids of the keys the vault has, and placeholders for those it would create."""
    found = open_vault(vault_uri).find_all(study.name, study.n_keys)
    return tuple(key_id or f"new-{slot:05d}" for slot, key_id in enumerate(found))


def check_apart(store_uri: str, vault_uri: str) -> None:
    """Raise VaultError if the vault lies inside the store's root, or the root inside the vault.

    Folders are compared with folders, and buckets with buckets of the same name, wherever they are.

    Args:
        store_uri: the study's part of the store, one level below its root.
        vault_uri: the vault.
    """
    study, vault = _place(store_uri), _place(vault_uri)
    if study is None or vault is None:
        return
    root = study.parent
    if vault.is_relative_to(root) or root.is_relative_to(vault):
        held, beside = (str(place).replace("s3:/", "s3://", 1) for place in (vault, root))
        raise VaultError(
            f"Vault {held} and store {beside} lie inside one another: who may read artifacts could then "
            "read keys. Name another --vault."
        )


def _place(uri: str) -> PurePath | None:
    """A folder, links and dots resolved, or a place in a bucket; None for what is neither."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return Path(uri.removeprefix("file://")).expanduser().resolve()
    return PurePosixPath("s3:", parts.netloc, parts.path.strip("/")) if parts.scheme == "s3" else None
