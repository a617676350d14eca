"""Doctor: every probe of a set-up, in the order in which a run would stumble over what they look at."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from orchestrator import aws
from orchestrator.checkup import (
    cluster_probes,
    store_probes,
    study_probes,
    vault_probes,
)
from orchestrator.checkup.probe import Finding, Patient, Probe
from orchestrator.pipeline.command import Command

# Whoever asks what is wrong does not wait two minutes for each call that goes nowhere.
_PATIENCE_SECONDS = 10.0

# The table of probes: a question is one function and one row.
PROBES: tuple[Probe, ...] = (
    *store_probes.PROBES,
    *vault_probes.PROBES,
    *study_probes.PROBES,
    *cluster_probes.PROBES,
)


class Told(NamedTuple):
    """A probe and one of its findings."""

    probe: Probe
    finding: Finding


def examine(command: Command) -> Iterator[Told]:
    """Look at everything the command would use; findings come as they are made, and nothing is left.

    Raises:
        StoreError, VaultError: no backend understands the URI of the store or of the vault.
    """
    patient = Patient(command)
    patience, aws.PATIENCE_SECONDS = aws.PATIENCE_SECONDS, _PATIENCE_SECONDS
    try:
        with patient.care:
            for _, probes in itertools.groupby(PROBES, lambda probe: probe.topic):
                yield from _topic([probe for probe in probes if probe.when(patient)], patient)
    finally:
        aws.PATIENCE_SECONDS = patience


def _topic(probes: list[Probe], patient: Patient) -> Iterator[Told]:
    for probe in probes:
        missing = [topic for topic in (*probe.needs, probe.topic) if topic in patient.broken]
        if missing and not probe.anyway:
            yield Told(probe, Finding("skip", f"not looked at, as it needs the {missing[0]}"))
            continue
        failed = False
        for finding in probe.findings(patient):
            failed |= finding.level == "fail"
            yield Told(probe, finding)
        if failed and probe.vital:
            patient.broken.add(probe.topic)
