"""The main job while cluster and store fail under it: the same command ends in the same bytes.

The reference is the same study with the same keys made in one process, without Ray and with nothing
disturbed. Longer storms, with more kinds of faults, are those of benchmarks/soak.py.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aftermath import Reference, flaws
from study_site import Site, mounted

from ceph import PACKAGES, missing
from orchestrator.errors import StoreError
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord, FileEntry

EXPIRED = {"status": 403, "code": "ExpiredToken"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if missing():
        pytest.skip(f"no S3 server here ({', '.join(missing())}): apt-get install {PACKAGES}")
    site = Site()
    with pytest.MonkeyPatch.context() as here:
        for name, value in {**site.ambient, "AWS_ENDPOINT_URL": site.ceph.url}.items():
            here.setenv(name, value)
        yield site
    site.stop()


@pytest.fixture(scope="module")
def reference(site: Site) -> Reference:
    """The study made in one process, while the cluster comes up."""
    alone = site.driver("alone", workers=1).start("--local")
    site.start()
    alone.finish()
    return Reference.of(alone)


@pytest.mark.ray
def test_a_study_survives_its_node_its_driver_and_its_store_in_bad_weather(
    site: Site, reference: Reference
) -> None:
    driver = site.driver("battered", workers=1)
    site.proxy.add("status", p=0.1)
    site.proxy.add("reset", p=0.05, after=200)
    site.proxy.add("lost_reply", p=0.1)
    driver.start()
    driver.wait_for("a keyed model under way", lambda: "/k-" in str(driver.made("checkpoints")))
    site.take_node().kill()
    site.add_node()
    driver.wait_for("outcomes", lambda: driver.made("outcomes"))
    driver.kill()
    kept = len(driver.made("outcomes"))
    driver.start()
    driver.wait_for("more outcomes", lambda: len(driver.made("outcomes")) > kept)
    site.ceph.kill()
    time.sleep(1.0)
    site.ceph.start()
    driver.finish()
    site.proxy.calm()
    assert sum(bool(request.actions) for request in site.proxy.seen()) > 20
    assert flaws(driver, reference) == []


@pytest.mark.ray
def test_expired_credentials_are_told_in_a_sentence_and_two_drivers_then_make_one_study(
    site: Site, reference: Reference
) -> None:
    driver = site.driver("shared", workers=1)
    driver.start()
    driver.wait_for("the plain model", lambda: driver.made("models"))
    site.proxy.add("status", **EXPIRED)
    assert driver.end() in (1, 2), driver.said
    assert "the credentials have expired: renew them and rerun" in driver.said
    assert "Traceback" not in driver.said
    site.proxy.calm()
    other = site.driver("shared", workers=1, log="other")
    driver.start()
    other.start()
    told = driver.finish() + other.finish()
    assert "was recorded by another driver first; its artifact stays" in told
    assert flaws(driver, reference) == []


def test_a_full_disk_is_told_in_a_sentence_and_the_same_commit_succeeds_with_room(tmp_path: Path) -> None:
    if not mounted(tmp_path, 1 << 20):
        pytest.skip("no disk can be mounted here: run as root")
    try:
        store, content = LocalStore(tmp_path / "study"), os.urandom(800_000)
        record = ArtifactRecord(recipe={"made": "here"}, files={"part.bin": FileEntry.of(content)})
        (tmp_path / "ballast").write_bytes(bytes(500_000))
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)\. Free space"):
            store.commit("models/plain", record, {"part.bin": content})
        assert list(store.addresses("")) == []
        (tmp_path / "ballast").unlink()
        store.sweep(older_than_seconds=-60.0)
        assert store.commit("models/plain", record, {"part.bin": content})
        assert store.read("models/plain", "part.bin") == content
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_scratch_of_a_killed_driver_is_swept_when_it_is_old(store: LocalStore) -> None:
    place = store.root / ".ray" / "killed" / "trial"
    place.mkdir(parents=True)
    (place / "state.json").write_text("{}")
    os.utime(place.parent, (0, 0))
    assert store.sweep() == 0, "its newest file is young"
    assert store.sweep(older_than_seconds=-60.0) == 1
    assert not place.parent.exists()
