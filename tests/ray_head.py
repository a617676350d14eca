"""A Ray cluster of its own on this machine: a head behind a token, and fake nodes its autoscaler starts.

Ray's own fake node provider starts each node as a raylet with the logical resources its type names, so
the real autoscaler, scheduler and actors are at work; only the machines are pretended.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from ceph import free_ports

# The fake provider knows the head by this id alone.
HEAD_ID = "f" * 51 + "00000"
PATIENCE_SECONDS = 120.0
_STORE_BYTES = 100 * 2**20
# The fake provider calls its head so.
_HEAD_TYPE = "ray.head.default"


class RayHead:
    """``ray start --head --block`` in a process group of its own; everything it starts ends with it.

    Args:
        node_types: resources and bounds of what the autoscaler may start, by name; none: no autoscaler.
        cpus: cores of the head itself.
        idle_seconds: how long a node may idle before it goes.
    """

    def __init__(
        self, node_types: dict[str, Any] | None = None, cpus: int = 0, idle_seconds: float = 6.0
    ) -> None:
        # Short: Ray's sockets live below it, and a socket's path has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="mkr-", dir="/tmp"))
        self.port = free_ports(2)
        self.dashboard = self.port + 1
        self.node_types, self.cpus, self.idle_seconds = node_types, cpus, idle_seconds
        self.process: subprocess.Popen[bytes] | None = None
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)

    @property
    def address(self) -> str:
        """What drivers join."""
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
        return {
            **kept,
            "HOME": str(self.folder),
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start(self) -> "RayHead":
        """Start, and wait until drivers and jobs are let in."""
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", f"--port={self.port}", f"--num-cpus={self.cpus}",
            "--num-gpus=0", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
            f"--object-store-memory={_STORE_BYTES}", f"--temp-dir={self.folder}/ray",
            "--disable-usage-stats",
        ]  # fmt: skip
        environment = self.environment
        if self.node_types is not None:
            command.append(f"--autoscaling-config={self._autoscaling()}")
            environment |= {
                "RAY_FAKE_CLUSTER": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            }
        with (self.folder / "head.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            told = (self.folder / "head.log").read_text()
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the head did not start: {told[-2000:]}")
            time.sleep(0.2)
        return self

    def _answers(self) -> bool:
        """Whether the job server lists jobs: the last thing to come up."""
        listing = [sys.executable, "-m", "ray.scripts.scripts", "job", "list"]
        done = subprocess.run(listing, env=self.environment, capture_output=True, check=False)
        return done.returncode == 0

    def stop(self) -> None:
        """End the head, its nodes and every process they started, and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            os.killpg(self.process.pid, signal.SIGTERM)
            _, alive = psutil.wait_procs([psutil.Process(self.process.pid), *family], timeout=8)
            for process in alive:
                process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "RayHead":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _autoscaling(self) -> Path:
        types = {
            name: {"node_config": {}, "min_workers": 0, **settings}
            for name, settings in (self.node_types or {}).items()
        }
        for settings in types.values():
            settings["resources"].setdefault("object_store_memory", _STORE_BYTES)
        types[_HEAD_TYPE] = {
            "resources": {"CPU": self.cpus, "object_store_memory": _STORE_BYTES},
            "node_config": {},
            "max_workers": 0,
        }
        lists = (
            "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files",
            "rsync_exclude", "rsync_filter",
        )  # fmt: skip
        settings = {
            "cluster_name": "fake",
            "max_workers": sum(kind.get("max_workers", 0) for kind in types.values()),
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": HEAD_ID,
                "gcs_address": self.address,
            },
            "available_node_types": types,
            "head_node_type": _HEAD_TYPE,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": self.idle_seconds / 60,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in lists},
        }
        file = self.folder / "autoscaling.json"
        file.write_text(json.dumps(settings))
        return file
