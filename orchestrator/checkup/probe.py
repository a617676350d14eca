"""Checkup: probes and what they find, each bounded in time; the words of jobs/doctor.py."""

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.checkup.workbench import Workbench
from orchestrator.cluster.session import Cluster
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.pipeline.command import Command
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.uri import below, is_folder
from orchestrator.study import Study

Level = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What a probe found."""

    level: Level
    """ok; warn: the study runs, and yet; fail: it would not; skip: not looked at."""
    found: str
    advice: str = ""
    """What to do; empty where there is nothing to do, or where ``found`` says it."""


def ok(found: str) -> Finding:
    """All is well."""
    return Finding("ok", found)


def warn(found: str, advice: str) -> Finding:
    """The study runs, and yet."""
    return Finding("warn", found, advice)


def fail(found: str, advice: str = "") -> Finding:
    """The study would not run, or not safely."""
    return Finding("fail", found, advice)


class Hand:
    """A thread that probes one thing after another, so that whoever waits for it need not wait for ever.

    It does not end before the process: the system ends what Ray starts together with the thread that
    started it.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def do(self, job: Callable[[Callable[[Finding], None]], None]) -> "queue.SimpleQueue[Finding | None]":
        """What the job tells, as it tells it; None is the end."""
        told: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

        def whole() -> None:
            job(told.put)
            told.put(None)

        self._jobs.put(whole)
        return told

    def _work(self) -> None:
        while True:
            self._jobs.get()()


class Patient:
    """A command under examination, and what probes learn that later ones need."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.care = contextlib.ExitStack()
        """What is undone when the examination ends."""
        self.hand = Hand()
        self.store: ArtifactStore = command.open_store()
        self.vault_uri: str = command.vault_uri
        token = secrets.token_hex(6)
        self.bench = Workbench(below(command.store, f".doctor/{token}"))
        """Where this process writes its probe artifacts."""
        # The role of a worker may write below its study alone.
        self.node_bench = Workbench(below(self.store.uri, f".ray/doctor-{token}"))
        """Where nodes read and write theirs."""
        self.slot = f".doctor-{token}"
        """The study under whose name a key may be created, and is removed again."""
        self.cluster: Cluster | None = None
        self.broken: set[str] = set()
        """Topics of which something vital failed."""

    @property
    def study(self) -> Study:
        """The study asked for."""
        return self.command.study

    @property
    def in_bucket(self) -> bool:
        """Whether the store is a service rather than a folder."""
        return not is_folder(self.command.store)


def always(patient: Patient) -> bool:
    """The condition of a probe that is for everyone."""
    del patient
    return True


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question to one part of the set-up."""

    topic: str
    name: str
    look: Callable[[Patient], Iterator[Finding]]
    advice: str
    """What to do where it ends by an error that is not ours, or takes too long."""
    when: Callable[[Patient], bool] = always
    """For whom it makes sense."""
    seconds: float = 30.0
    """How long it may take."""
    vital: bool = False
    """Where it fails, the rest of its topic, and what needs that, is not looked at."""
    needs: tuple[str, ...] = ()
    """Topics that must work for it to mean anything."""
    anyway: bool = False
    """Looked at whatever failed before."""

    def findings(self, patient: Patient) -> Iterator[Finding]:
        """What it finds, within its time; an error is a finding too."""
        found = patient.hand.do(lambda tell: self._tell_all(patient, tell))
        until = time.monotonic() + self.seconds
        with contextlib.suppress(queue.Empty):
            while (finding := found.get(timeout=max(0.0, until - time.monotonic()))) is not None:
                yield finding
            return
        patient.hand = Hand()
        yield fail(f"no answer within {self.seconds:.0f} s", self.advice)

    def _tell_all(self, patient: Patient, tell: Callable[[Finding], None]) -> None:
        try:
            for finding in self.look(patient):
                tell(finding)
        except OrchestratorError as error:
            tell(fail(str(error)))
        except OSError as error:
            tell(fail(f"{type(error).__name__}: {error.strerror or first_line(error)}", self.advice))
        except Exception as error:  # its text may quote what it was given, so it stays here
            tell(fail(type(error).__name__, self.advice))
