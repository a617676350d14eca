"""A real S3 server for tests: Ceph RGW on loopback, in one folder, as any user.

It needs the packages radosgw, ceph-osd and ceph-mon. By hand: ``python tests/ceph.py --root FOLDER``
starts one and prints what to export; Ctrl-C stops it, and the folder keeps its data.
"""

import argparse
import contextlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-osd", "ceph-mon", "ceph", "monmaptool", "setpriv")
PACKAGES = "radosgw ceph-osd ceph-mon"
KMS_KEY = "testkey-1"
"""The one key of the server's KMS, which is a table in its settings."""

# Timeouts are for a server that is killed and restarted within seconds; every socket is on loopback.
_SETTINGS = """
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_v1}]
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = true
run dir = {root}/run
admin socket =
log file = {root}/log/$name.log
mon cluster log file = {root}/log/cluster.log
crash dir = {root}/crash
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon warn on pool no redundancy = false
[mon]
mon data = {root}/mon.a
mon data avail warn = 1
mon data avail crit = 0
paxos propose interval = 0.05
paxos min wait = 0.01
mgr initial modules =
[osd]
osd data = {root}/osd.0
osd objectstore = bluestore
osd memory target = 939524096
bluestore block size = 21474836480
bluestore block create = true
bluestore rocksdb options annex = write_buffer_size=16777216
bluestore fsck on mount = false
osd fast shutdown = true
osd heartbeat grace = 60
osd client watch timeout = 2
osd op num shards = 2
osd op num threads per shard = 1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {root}/rgw
ms mon client mode = crc
objecter tick interval = 0.3
objecter timeout = 1
client notify timeout = 2
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
rgw override bucket index max shards = 1
rgw lc debug interval = -1
keyring = /dev/null
"""


@dataclass(frozen=True)
class Credentials:
    """What a user of the server signs with."""

    access: str
    secret: str


class Ceph:
    """A monitor, an object daemon and the S3 gateway before them; data outlives ``kill`` and ``stop``."""

    access = "testak0001"
    secret = "testsk0001secret"

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root.resolve()
        kept = self.root / "port"
        # The monitor's address is part of a cluster's identity, and so the ports stay what they were.
        self.port = int(kept.read_text()) if kept.exists() else port or free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = self.root / "ceph.conf"
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> "Ceph":
        """Start the daemons, making the cluster first if the folder is empty, and wait until S3 answers."""
        new = not (self.root / "port").exists()
        if new:
            self._prepare()
        self._spawn("ceph-mon", "-i", "a", "-f")
        if new:
            disk = str(uuid.uuid4())
            self._do("ceph", "--connect-timeout", "30", "osd", "new", disk, "0")
            self._do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._spawn("ceph-osd", "-i", "0", "-f")
        if new:
            self.add_user("ci", Credentials(self.access, self.secret))
            (self.root / "port").write_text(str(self.port))
        self._spawn("radosgw", "-n", "client.rgw", "-f")
        self._await_answer()
        return self

    def kill(self) -> None:
        """End all daemons at once, as a power cut would."""
        for daemon in self._running:
            daemon.kill()
        for daemon in self._running:
            daemon.wait()
        self._running.clear()

    def stop(self) -> None:
        """End all daemons, the gateway first."""
        for daemon in reversed(self._running):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._running.clear()

    def add_user(self, name: str, credentials: Credentials | None = None) -> Credentials:
        """Another user, who may nothing but what a bucket's policy grants."""
        new = credentials or Credentials(f"ak-{name}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
        told = ("--uid", name, "--display-name", name, "--max-buckets", "0")
        keys = ("--access-key", new.access, "--secret-key", new.secret)
        self._do("radosgw-admin", "-n", "client.rgw", "user", "create", *told, *keys)
        return new

    def _prepare(self) -> None:
        for folder in ("run", "log", "mon.a", "osd.0", "rgw", "crash"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        fsid, mon, mon_v1 = str(uuid.uuid4()), self.port + 1, self.port + 2
        self._settings.write_text(
            _SETTINGS.format(
                fsid=fsid, root=self.root, port=self.port, mon=mon, mon_v1=mon_v1, kms_key=KMS_KEY
            )
        )
        monitors, at = str(self.root / "monmap"), f"[v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_v1}]"
        self._do("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", at, monitors)
        self._do("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors)

    def _await_answer(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and all(daemon.poll() is None for daemon in self._running):
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=5):
                return
            time.sleep(0.05)
        said = (self.root / "log" / "out.log").read_text(errors="replace")[-2000:]
        self.kill()
        raise RuntimeError(f"Ceph did not start in {self.root}: {said}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        settings = () if program == "monmaptool" else ("-c", str(self._settings))
        return [program, *settings, *arguments]

    def _do(self, program: str, *arguments: str) -> None:
        with (self.root / "log" / "out.log").open("ab") as log:
            command = self._command(program, *arguments)
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=120)

    def _spawn(self, program: str, *arguments: str) -> None:
        # They die with the process that started them, however that ends, and ignore its Ctrl-C.
        command = ["setpriv", "--pdeathsig", "KILL", *self._command(program, *arguments)]
        with (self.root / "log" / "out.log").open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )


def missing() -> list[str]:
    """Programs the server needs that are not on this machine."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive free ports on loopback, below those the system hands out."""
    for first in range(20_000 + uuid.uuid4().int % 10_000, 32_000, count):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError("There are no free ports below 32000.")


def main() -> None:
    """Run a server until Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=9300)
    options = parser.parse_args()
    server = Ceph(options.root, options.port).start()
    told = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": server.access,
        "AWS_SECRET_ACCESS_KEY": server.secret,
        "AWS_REGION": "us-east-1",
    }
    print("\n".join(f"export {name}={value}" for name, value in told.items()), flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop()


if __name__ == "__main__":
    main()
