"""The command line of the jobs: which study, where its artifacts and keys are, on what it runs."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import tyro

from orchestrator.cluster.workplace import LocalWorkplace, Workplace
from orchestrator.errors import OrchestratorError, StudyError
from orchestrator.keys.vault import open_vault
from orchestrator.pipeline.speed import Speed
from orchestrator.presets import PRESETS
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.uri import below
from orchestrator.study import Study

HOME = "~/multikey"
Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of a job; the study's defaults come from its preset."""

    study: Annotated[Study, tyro.conf.arg(name="")]
    preset: str = "digits"
    """The study to start from: digits, cifar10 or imagenet."""
    store: str = f"{HOME}/store"
    """Where all studies' artifacts are: a folder, or s3://bucket/prefix with options such as ?sse=kms. It
    holds weights: keep it as private as the vault."""
    vault: str = f"{HOME}/vault"
    """Where the keys are, never inside the store: a folder, aws-sm://prefix, or s3://bucket/prefix."""
    dry_run: bool = False
    """Print what is done and what is to do, and stop."""
    local: bool = False
    """Run everything in this process, without Ray."""
    ray: str = "auto"
    """Cluster to run on: auto joins the running one or starts one here; local starts one; or an address."""
    gpus: int = -1
    """GPUs to use at most, and to ask for on a cluster that scales; 0 computes on cores; -1 takes those
    there are, and asks a cluster that has scaled down to nothing for GPUs."""
    shared_folders: bool = False
    """On several nodes: each mounts the folders given as store and vault at the same path."""
    workers_per_model: int = 1
    """Data-parallel workers of one full fine-tune, one GPU (or core) each."""
    pack: int = 0
    """Models one worker group trains in turn; 0 is one on GPUs, an even share for each group on cores."""
    keys_per_device: int = 1
    """LoRA models that one GPU (or core) trains at once, a process each: more than one pays where one alone
    leaves a GPU idle, as small models do."""
    actors: int = 0
    """Attack actors at most; 0 is one for each GPU (or core) that training leaves."""
    keep_images: bool = False
    """Keep the adversarial images of every unit that is attacked, losslessly, with their masks."""
    compiled: bool = False
    """Train and attack models through torch.compile: minutes to begin with, faster on GPUs."""
    gpu: Speed = field(default_factory=Speed)
    """The GPU that --dry-run prices hours on."""

    def __post_init__(self) -> None:
        for name, least in (
            ("workers_per_model", 1),
            ("pack", 0),
            ("keys_per_device", 1),
            ("actors", 0),
            ("gpus", -1),
        ):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise StudyError(f"--{flag} is {getattr(self, name)}. Give at least {least}.")

    @property
    def vault_uri(self) -> str:
        """The vault, named so that workers find it from their own folders."""
        return open_vault(self.vault).uri

    def open_store(self) -> ArtifactStore:
        """The study's own part of the store."""
        return open_store(below(self.store, self.study.name))

    @property
    def attacking(self) -> dict[str, bool]:
        """Options of the workers that attack."""
        return {"keep_images": self.keep_images, "compiled": self.compiled}

    @contextmanager
    def workplace(self) -> Iterator[Workplace]:
        """Where the study runs."""
        if self.local:
            yield LocalWorkplace(compiled=self.compiled)
            return
        # Imported here: a local run needs no Ray, and importing it starts threads.
        from orchestrator.cluster.ray_workplace import RayWorkplace
        from orchestrator.cluster.session import joined

        with joined(self.ray, self.gpus) as cluster:
            yield RayWorkplace(
                cluster,
                self.open_store().uri,
                workers_per_model=self.workers_per_model,
                pack=self.pack,
                keys_per_device=self.keys_per_device,
                actors=self.actors,
                shared_folders=self.shared_folders,
                compiled=self.compiled,
            )


Kind = TypeVar("Kind", bound=Command)


def parse(arguments: list[str]) -> Command:
    """The command, its defaults taken from the preset it names.

    Raises:
        StudyError: there is no such preset.
    """
    return parse_as(Command, arguments)


def parse_as(kind: type[Kind], arguments: list[str]) -> Kind:
    """The same for a job with further options.

    Raises:
        StudyError: there is no such preset.
    """
    preset = preset_of(arguments, PRESETS)
    return tyro.cli(
        kind,
        default=kind(study=PRESETS[preset](), preset=preset),
        args=arguments,
        description="Options after the preset's own defaults; see docs/architecture.md.",
    )


def preset_of(arguments: list[str], presets: Mapping[str, object]) -> str:
    """The preset that a command line names.

    Raises:
        StudyError: there is no such preset.
    """
    dial = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    dial.add_argument("--preset", default="digits")
    preset = str(dial.parse_known_args(arguments)[0].preset)
    if preset not in presets:
        raise StudyError(f"There is no preset {preset}. Choose one of {', '.join(presets)}.")
    return preset


def reader(kind: type[Options], told: str) -> Callable[[list[str]], Options]:
    """What reads the command line of a job with options of its own."""
    return lambda arguments: tyro.cli(kind, args=arguments, description=told)


def main(job: Callable[[Options], int], read: Callable[[list[str]], Options]) -> None:
    """Run a job: what a person can mend ends in one sentence and status 2."""
    os.umask(0o077)  # weights are as secret as keys: nothing made here is for others to read
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    try:
        status = job(read(sys.argv[1:]))
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        status = 2
    except KeyboardInterrupt:
        print("stopped; the same command continues where this one ended", file=sys.stderr)  # noqa: T201
        status = 130
    except BrokenPipeError:  # told to `head`, say, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
