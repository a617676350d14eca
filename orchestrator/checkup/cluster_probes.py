"""Probes of the cluster: joined, large enough, closed to strangers, and every node fit to work."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.checkup.probe import Finding, Patient, Probe, fail, ok, warn
from orchestrator.checkup.workbench import FILE
from orchestrator.cluster.session import Cluster, joined
from orchestrator.keys.vault import open_vault
from orchestrator.store.uri import is_folder

_NODES_SECONDS = 90.0
_AHEAD_SECONDS = 30.0
_ON_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


def _reached(patient: Patient) -> Iterator[Finding]:
    command = patient.command
    cluster = patient.care.enter_context(joined(command.ray, command.gpus))
    patient.cluster = cluster
    here = "; started here for this look, as a run would" if cluster.fixed else ""
    yield ok(f"{cluster.describe()}{here}")


def _cluster(patient: Patient) -> Cluster:
    assert patient.cluster is not None, "what needs the cluster comes after joining it"  # noqa: S101
    return patient.cluster


def _size(patient: Patient) -> Iterator[Finding]:
    # Ray is imported by then, and refuses here what it would refuse in a run.
    from orchestrator.cluster.ray_workplace import RayWorkplace

    command, cluster = patient.command, _cluster(patient)
    RayWorkplace(
        cluster,
        patient.store.uri,
        workers_per_model=command.workers_per_model,
        pack=command.pack,
        actors=command.actors,
        shared_folders=command.shared_folders,
    )
    now, kind = cluster.devices.now(), "GPUs" if cluster.accelerated else "cores"
    if now < command.workers_per_model:
        yield warn(
            f"{now} {kind} now, and one model needs {command.workers_per_model}",
            "Fine where the cluster grows by itself: the job waits for them. Else start nodes, or lower "
            "--workers-per-model.",
        )
    elif not cluster.accelerated:
        yield warn(f"no GPU: models are made on {now} cores", "Fine for small models; else give it GPUs.")
    else:
        yield ok(f"{now} {kind}, {now // command.workers_per_model} models side by side")


def _closed(patient: Patient) -> Iterator[Finding]:
    del patient  # Ray tells of the cluster that this process has joined
    from orchestrator.cluster.node_probe import doors

    found = doors()
    if found.token:
        yield ok("Ray asks for its token")
    else:
        yield (warn if not found.far else fail)(
            "Ray lets in whoever reaches its ports, to run anything and read all keys",
            "Start every node with RAY_AUTH_MODE=token and the same ~/.ray/auth_token (docs/security.md).",
        )
    host = found.dashboard.rpartition(":")[0]
    if host and host not in _ON_LOOPBACK:
        yield warn(
            f"the dashboard listens on {host}, not on this machine alone",
            "Start the head with --dashboard-host=127.0.0.1, and reach it through ssh.",
        )
    elif host:
        yield ok(f"the dashboard listens on {host} alone")


def _nodes(patient: Patient) -> Iterator[Finding]:
    from orchestrator.cluster.node_probe import Errand, versions_here, visit_nodes

    patient.care.callback(patient.node_bench.leftovers)
    patient.node_bench.commit("probe", b"probe")
    errand = Errand(store=patient.node_bench.uri, address="probe", file=FILE)
    if key_id := _key_for_nodes(patient):
        errand = replace(errand, vault=patient.vault_uri, study=patient.study.name, key_id=key_id)
    reports = visit_nodes(errand, _NODES_SECONDS)
    if stays := patient.node_bench.leftovers():
        yield warn(f"probe artifacts stay behind in {errand.store}: {stays}", "Delete that place.")
    for report in reports:
        other = [
            f"{name} {there}" for name, there in report.versions if (name, there) not in versions_here()
        ]
        if report.troubles:
            yield fail(f"{report.name}: {' '.join(report.troubles)}", "Mend that node, or take it away.")
        elif other:
            yield fail(
                f"{report.name} has {', '.join(other)}, unlike the driver",
                "Install the same versions on every node.",
            )
        elif report.gpus_seen < report.gpus:
            yield fail(
                f"{report.name}: torch sees {report.gpus_seen} of {report.gpus} GPUs",
                "Install torch for its driver there, or give back the GPUs (ray start --num-gpus).",
            )
        elif abs(report.seconds_ahead) > _AHEAD_SECONDS:
            yield warn(f"{report.name}: its clock is {report.seconds_ahead:.0f} s off", "Set its clock.")
        else:
            gpus = f", torch sees {report.gpus_seen} GPUs" if report.gpus else ""
            vault = " and vault" if errand.vault else ""
            yield ok(f"{report.name}: the driver's versions, reaches store{vault}{gpus}")


def _key_for_nodes(patient: Patient) -> str:
    """The id of a key that nodes can try to open; empty where they open no vault, or it has no key yet."""
    folder = is_folder(patient.vault_uri)
    desk = folder and not (patient.command.shared_folders or _cluster(patient).fixed)
    if desk or "vault" in patient.broken:
        return ""
    return open_vault(patient.vault_uri).find(patient.study.name, 0) or ""


def _with_ray(patient: Patient) -> bool:
    return not patient.command.local


_JOIN = (
    "Look whether the cluster is up and --ray names it. One that asks for its token is joined with "
    "RAY_AUTH_MODE=token and its token in ~/.ray/auth_token."
)
_MEND = "Look at `ray status`, then run the doctor again."

PROBES = (
    Probe(
        topic="cluster",
        name="joined",
        look=_reached,
        advice=_JOIN,
        when=_with_ray,
        seconds=90.0,
        vital=True,
    ),
    Probe(topic="cluster", name="size", look=_size, advice=_MEND, when=_with_ray),
    Probe(topic="cluster", name="doors", look=_closed, advice=_MEND, when=_with_ray),
    Probe(
        topic="cluster",
        name="nodes",
        look=_nodes,
        advice=_MEND,
        when=_with_ray,
        seconds=_NODES_SECONDS + 30.0,
        needs=("store",),
    ),
)
