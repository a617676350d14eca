"""Probes of the store, folder or bucket: is what is written there, whole, once, and seen at once."""

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from orchestrator.checkup import bucket_probes
from orchestrator.checkup.probe import Finding, Patient, Probe, fail, ok, warn
from orchestrator.errors import StoreError
from orchestrator.store.parts import PART_BYTES

_WRITERS, _ROUNDS = 8, 5
_LOW_BYTES = 2 * 10**9
_ONE_DRIVER = "Run one driver at a time, or put the store on AWS S3 or Ceph."


def _write(patient: Patient) -> Iterator[Finding]:
    patient.care.callback(patient.bench.leftovers)
    began, content = time.monotonic(), os.urandom(1000)
    patient.bench.commit("probe", content)
    if patient.bench.read("probe") != content:
        yield fail("what is read is not what was written", "Do not use this store.")
        return
    yield ok(f"{patient.command.store}: written and read back in {time.monotonic() - began:.2f} s")


def _absent(patient: Patient) -> Iterator[Finding]:
    try:
        there = patient.bench.store.has("absent")
    except StoreError as error:
        yield fail(
            f"what is not there is refused instead of not found: {error}",
            "Grant s3:ListBucket on the bucket; without it S3 does not say which of the two it is.",
        )
        return
    yield fail("there is something where nothing was written") if there else ok("not found (404)")


def _second(patient: Patient) -> Iterator[Finding]:
    bench, first = patient.bench, b"first"
    won = [bench.commit("twice", first), bench.commit("twice", b"second")]
    if won == [True, False] and bench.read("twice") == first:
        yield ok("refused, and the first one's bytes stay")
    else:
        yield fail("it replaced the first: two drivers would overwrite each other", _ONE_DRIVER)


def _race(patient: Patient) -> Iterator[Finding]:
    worst = max((_winners(patient, number) for number in range(_ROUNDS)), key=lambda won: abs(won - 1))
    if worst == 1:
        yield ok(f"one of {_WRITERS} won, {_ROUNDS} times out of {_ROUNDS}")
    else:
        yield fail(f"{worst} of {_WRITERS} writers were told they had won", _ONE_DRIVER)


def _winners(patient: Patient, number: int) -> int:
    start = threading.Barrier(_WRITERS)

    def write(writer: int) -> bool:
        start.wait(10.0)
        return patient.bench.commit(f"race/{number}", b"%d" % writer, writer=writer)

    with ThreadPoolExecutor(_WRITERS) as pool:
        return sum(pool.map(write, range(_WRITERS)))


def _listing(patient: Patient) -> Iterator[Finding]:
    store, wrong = patient.bench.store, 0
    for number in range(_ROUNDS):
        address = f"listed/{number}"
        patient.bench.commit(address, b"there")
        wrong += address not in list(store.addresses("listed"))
        store.delete(address)
        wrong += address in list(store.addresses("listed"))
    if wrong:
        told = f"{wrong} of {2 * _ROUNDS} listings were behind what had been written or deleted"
        yield fail(told, "Use a store whose listings are consistent, as those of AWS S3 and Ceph are.")
    else:
        yield ok(f"right at once, {2 * _ROUNDS} times out of {2 * _ROUNDS}")


def _large(patient: Patient) -> Iterator[Finding]:
    content = os.urandom(PART_BYTES + 1)
    began = time.monotonic()
    patient.bench.commit("large", content)
    whole = patient.bench.read("large") == content
    seconds = time.monotonic() - began
    swept = patient.bench.store.sweep(older_than_seconds=86_400.0)
    if not whole or swept:
        yield fail("a large artifact does not come back as it was written", "Do not use this store.")
    else:
        yield ok(
            f"{2 * len(content) / 1e6 / seconds:.0f} MB/s there and back, and half uploads can be swept"
        )


def _folder(patient: Patient) -> Iterator[Finding]:
    root = patient.bench.folder.parent.parent
    free = shutil.disk_usage(root).free
    mode = stat.S_IMODE(root.stat().st_mode)
    if free < _LOW_BYTES:
        yield fail(f"{free / 1e9:.1f} GB are free in {root}", "Free some, or name another --store.")
    if mode & 0o077:
        yield warn(
            f"{root} has mode {mode:04o}: others of this machine may enter",
            f"It will hold weights, which are as secret as keys: chmod 700 {root}",
        )
    if free >= _LOW_BYTES and not mode & 0o077:
        yield ok(f"private, {free / 1e9:.0f} GB free")


def _left(patient: Patient) -> Iterator[Finding]:
    stays = patient.bench.leftovers()
    if stays:
        yield warn(f"probe artifacts stay behind in {patient.bench.uri}: {stays}", "Delete that place.")
    else:
        yield ok("every probe artifact is removed again")


_MEND = "Look whether store, endpoint and network are up, then run the doctor again."

PROBES = (
    Probe(topic="store", name="write and read", look=_write, advice=_MEND, vital=True),
    Probe(topic="store", name="folder", look=_folder, advice=_MEND, when=lambda p: not p.in_bucket),
    Probe(topic="store", name="read what is not there", look=_absent, advice=_MEND),
    Probe(topic="store", name="second write", look=_second, advice=_MEND),
    Probe(topic="store", name="eight writers at once", look=_race, advice=_MEND, seconds=60.0),
    Probe(topic="store", name="listing after a write", look=_listing, advice=_MEND),
    Probe(topic="store", name="large artifact", look=_large, advice=_MEND, seconds=120.0),
    *bucket_probes.PROBES,
    Probe(topic="store", name="left as it was", look=_left, advice=_MEND, seconds=60.0, anyway=True),
)
