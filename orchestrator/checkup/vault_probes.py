"""Probes of the vault: opens, has what the store says, may be filled; no key leaves it, none is added."""

import contextlib
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.checkup.probe import Finding, Patient, Probe, fail, ok, warn
from orchestrator.keys.vault import open_vault
from orchestrator.keys.vault_uri import VaultUri
from orchestrator.pipeline.roster import check_apart
from orchestrator.store.bucket import Bucket
from orchestrator.store.catalogue import read_records
from orchestrator.store.uri import StoreUri, is_folder


def _apart(patient: Patient) -> Iterator[Finding]:
    check_apart(patient.store.uri, patient.vault_uri)
    yield ok("vault and store lie outside one another")


def _opens(patient: Patient) -> Iterator[Finding]:
    study = patient.study
    ids = open_vault(patient.vault_uri).find_all(study.name, study.n_keys)
    there = sum(key_id is not None for key_id in ids)
    yield ok(f"{patient.vault_uri}: {there} of {study.n_keys} keys of study {study.name} are there")


def _agrees(patient: Patient) -> Iterator[Finding]:
    vault, study = open_vault(patient.vault_uri), patient.study.name
    recorded = {r.recipe["slot"]: r.recipe["key_id"] for r in read_records(patient.store, "keys").values()}
    ids = vault.find_all(study, max(recorded, default=-1) + 1)
    wrong = [slot for slot, key_id in sorted(recorded.items()) if ids[slot] != key_id]
    if wrong:
        yield fail(
            f"{len(wrong)} of {len(recorded)} keys that study {study} recorded in the store are not in "
            f"this vault, first slot {wrong[0]}",
            "Point --vault to the vault the study was begun with, or use another --name.",
        )
    else:
        told = f"the vault has all {len(recorded)} that the store has recorded"
        yield ok(told if recorded else "the store has recorded none yet")


def _creates(patient: Patient) -> Iterator[Finding]:
    """A key is made in a slot of no study, and removed; where it could not be removed, none is made."""
    study, vault = patient.study, open_vault(patient.vault_uri)
    if None not in vault.find_all(study.name, study.n_keys):
        yield ok("not needed: no key is missing")
        return
    scheme = urlsplit(patient.vault_uri).scheme
    if scheme not in _ERASERS:
        yield warn(
            f"not tried: a key made in {scheme}:// could not be removed at once",
            "See docs/iam for the rights that creating keys takes.",
        )
        return
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(_ERASERS[scheme](patient))
        vault.ensure(patient.slot, 1)
    if vault.find(patient.slot, 0) is None:
        yield ok("a key was created in a slot of no study, and removed again")
    else:
        yield warn(f"the key of study {patient.slot} stays in the vault", "Delete it: nothing uses it.")


def _folder_eraser(patient: Patient) -> Callable[[], None]:
    root = Path(patient.vault_uri)
    made = [folder for folder in (root, *root.parents) if not folder.exists()]

    def erase() -> None:
        shutil.rmtree(root / patient.slot, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    return erase


def _bucket_eraser(patient: Patient) -> Callable[[], None]:
    uri = VaultUri.parse(patient.vault_uri)
    bucket = Bucket(StoreUri(bucket=uri.root, prefix=uri.prefix, endpoint=uri.endpoint, region=uri.region))
    key = f"{patient.slot}/00000.key"

    def erase() -> None:
        bucket.call("delete_object", key, seconds=5.0)

    erase()  # nothing is there yet: whoever may not delete is told before there is
    return erase


_ERASERS: dict[str, Callable[[Patient], Callable[[], None]]] = {
    "": _folder_eraser,
    "file": _folder_eraser,
    "s3": _bucket_eraser,
}


def _private(patient: Patient) -> Iterator[Finding]:
    folder = Path(patient.vault_uri)
    if not folder.exists():
        yield ok(f"{folder} is not there yet; the first run makes it, for this account alone")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        yield warn(f"{folder} has mode {mode:04o}: others of this machine may enter", f"chmod 700 {folder}")
    else:
        yield ok("for this account alone")


_MEND = "Look whether the vault is up and who may use it, then run the doctor again."

PROBES = (
    Probe(topic="vault", name="apart from the store", look=_apart, advice=_MEND),
    Probe(topic="vault", name="opens", look=_opens, advice=_MEND, vital=True),
    Probe(topic="vault", name="folder", look=_private, advice=_MEND, when=lambda p: is_folder(p.vault_uri)),
    Probe(topic="vault", name="keys of the study", look=_agrees, advice=_MEND, needs=("store",)),
    Probe(topic="vault", name="creating keys", look=_creates, advice=_MEND),
)
