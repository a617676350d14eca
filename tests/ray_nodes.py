"""A Ray cluster whose nodes can be lost whole: a head, and raylets that join and leave it one by one."""

import contextlib
import json
import subprocess
import sys
from typing import Any

import psutil
from ray_head import RayHead

# A node is missed after some seconds instead of half a minute; a busy machine still answers in time.
_WATCHFUL = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "4",
}
_STORE_BYTES = 100 * 2**20
_PATIENCE_SECONDS = 60.0


class Head(RayHead):
    """The head, whose processes and drivers find the store by what is ambient."""

    def __init__(self, ambient: dict[str, str]) -> None:
        super().__init__(cpus=1)
        self.ambient = ambient

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in by Ray and by the store."""
        kept = {n: v for n, v in super().environment.items() if not n.startswith("AWS_")}
        return {**kept, **self.ambient, **_WATCHFUL}

    def listed(self, resource: str, condition: str) -> list[dict[str, Any]]:
        """Ray's own list of its nodes or actors, of those of which the condition is true."""
        told = self.ray("list", resource, "--filter", condition, "--format", "json", "--limit", "1000")
        # Where there is none it says so in words.
        return json.loads(told) if told.lstrip().startswith("[") else []

    def ray(self, *arguments: str) -> str:
        """What Ray's command line says."""
        command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ray {arguments[0]}: {done.stderr[-1000:]}"
        return done.stdout


class Node:
    """One more node of one core: a raylet and its workers, at an address of their own."""

    def __init__(self, head: Head, number: int) -> None:
        self.head, self.address = head, f"127.0.0.{number}"
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={head.address}", "--block",
            f"--node-ip-address={self.address}", "--num-cpus=1", "--num-gpus=0",
            f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats",
            # Two raylets that start at once in one folder would choose the same names for their sockets.
            f"--temp-dir={head.folder}/n{number}",
        ]  # fmt: skip
        with (head.folder / f"node-{number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=head.environment, start_new_session=True
            )

    def family(self) -> list[psutil.Process]:
        """Everything that runs on the node, outermost first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(self.process.pid)
            return [whole, *whole.children(recursive=True)]
        return []

    def warn(self, seconds: int) -> None:
        """Say that the node will be taken away, as a cloud does before it takes a spot machine."""
        alive = self.head.listed("nodes", "state=ALIVE")
        (known,) = [node["node_id"] for node in alive if node["node_ip"] == self.address]
        self.head.ray(
            "drain-node", f"--address={self.head.address}", f"--node-id={known}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
            f"--deadline-remaining-seconds={seconds}",
        )  # fmt: skip

    def kill(self) -> None:
        """Lose the node whole, as a power cut or the end of a spot machine would."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def kill_raylet(self) -> None:
        """Lose Ray's own process on the node; the rest has to notice and go."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "raylet":
                    process.kill()
        self.process.wait(_PATIENCE_SECONDS)
