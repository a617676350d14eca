"""What a storm left behind: a study is compared with one that was left alone, its surroundings searched."""

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
from study_site import BUCKET, Driver, Site, title_of

from chaos import Seen
from orchestrator.store.artifacts import ArtifactStore, open_store

MATRIX = ("matrix", "matrix.parquet")
_FOLDER = re.compile(r"(?!.*/\.ray/).*/")
# Not of a job but of the cluster: its agents, and an actor that Ray Train leaves for all trainings to come.
_LASTING = "_AutoscalingCoordinatorActor"
_RESTING = re.compile(rf"ray::(IDLE|\w+Agent|{_LASTING})")
# Ray's workers may take this long to see that what they belonged to has ended.
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class Reference:
    """What the study comes to when nothing disturbs it."""

    matrix: bytes
    readings: Counter[tuple[str, str]]
    """How often each target read the images of each source, shard, attack and threat."""

    @classmethod
    def of(cls, driver: Driver) -> "Reference":
        """What a driver's study came to."""
        store = open_store(driver.store)
        return cls(store.read(*MATRIX), _readings(store))


def flaws(driver: Driver, reference: Reference) -> list[str]:
    """All that is not as it would be had nothing happened; call when the study has ended well."""
    site, store = driver.site, open_store(driver.store)
    found = []
    if store.read(*MATRIX) != reference.matrix:
        found.append("matrix.parquet differs")
    readings = _readings(store)
    found += [f"missing: {target} on {unit}" for unit, target in reference.readings - readings]
    found += [f"too many: {target} on {unit}" for unit, target in readings - reference.readings]
    store.sweep(older_than_seconds=-60.0)
    found += [f"not recorded: {key}" for key in _strays(driver, store)]
    found += [f"still an upload: {key}" for key in _uploads(driver)]
    return found + _settled(site)


def redone(seen: Iterable[Seen]) -> int:
    """Attacks begun more often than their images or outcomes were kept, by what passed the proxy.

    A worker reads the images of its shard once for every unit, and nobody else reads them.
    """
    begun, kept = 0, set()
    for request in seen:
        whole = not set(request.actions) - {"latency"}
        place = request.path.partition("?")[0]
        if whole and request.method == "GET" and "/shards/eval/" in place:
            begun += place.endswith("images.parquet")
        if request.method == "PUT" and place.endswith("/record.json"):
            kept |= {place} if "/outcomes/" in place or "/moved/" in place else set()
    return max(0, begun - len(kept))


def _readings(store: ArtifactStore) -> Counter[tuple[str, str]]:
    return Counter(
        (address.rsplit("/", 1)[0], target)
        for address in store.addresses("outcomes")
        for target in store.record(address).recipe["targets"]
    )


def _strays(driver: Driver, store: ArtifactStore) -> list[str]:
    """Objects that belong to no artifact, and artifacts that should be gone once all is done."""
    wanted = set()
    for address in store.addresses(""):
        record = store.record(address)
        files = {f"{address}/{record.writer}/{file}" for file in record.files}
        wanted |= files | {f"{address}/record.json"}
    prefix = f"{driver.name}/"
    pages = driver.site.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    # Ray's file system marks folders by empty objects, which no listing of ours shows.
    names = {key.removeprefix(f"{prefix}digits/") for key in keys if not _FOLDER.fullmatch(key)}
    passing = {name for name in names if name.startswith(("moved/", "checkpoints/"))}
    return sorted((names - wanted) | passing)


def _uploads(driver: Driver) -> list[str]:
    found = driver.site.client().list_multipart_uploads(Bucket=BUCKET, Prefix=f"{driver.name}/")
    return [upload["Key"] for upload in found.get("Uploads", ())]


def _settled(site: Site) -> list[str]:
    """Actors and processes that outlived their job, once all had time to go."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        found = [*_actors(site), *_orphans(site), *_busy(site)]
        if not found or time.monotonic() > until:
            return found
        time.sleep(1.0)


def _actors(site: Site) -> list[str]:
    alive = ((actor["class_name"], actor["state"]) for actor in site.head.listed("actors", "state!=DEAD"))
    return [f"an actor: {name} is {state}" for name, state in alive if name != _LASTING]


def _busy(site: Site) -> list[str]:
    """Workers that are still somebody's."""
    titles = (title_of(process) for process in site.workers("ray::"))
    return [f"a worker: {title.strip()}" for title in titles if not _RESTING.match(title)]


def _orphans(site: Site) -> list[str]:
    """Processes with this site's surroundings that are below none of its nodes."""
    ours = {process.pid for process in site.family()}
    found = []
    for process in psutil.process_iter():
        try:
            where = process.environ().get("RAY_TMPDIR")
            if where == str(site.head.folder) and process.pid not in ours:
                found.append(f"a process: {process.pid} {' '.join(process.cmdline())[:80]}")
        except psutil.Error:
            continue
    return found
