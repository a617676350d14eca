"""The files an operator starts from: cluster.yaml, the RayJob, the rights in docs/iam.

Ray's own schema checks less than it seems to: a typo below `provider`, a group larger than the cluster
or an open dashboard pass it. What it does not see is checked here.
"""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ceph import Ceph
from orchestrator.errors import StoreError
from orchestrator.pipeline.command import parse
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.record import ArtifactRecord, FileEntry

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster.yaml"
KUBERAY = ROOT / "docs" / "kuberay"
IAM = ROOT / "docs" / "iam"
ANYWHERE = ("0.0.0.0", "::/0")
PLACEHOLDERS = {
    "cluster.yaml": {"ACCOUNT", "AMI", "SECURITY_GROUP"},
    "docs/kuberay/rayjob.yaml": {"IMAGE", "STORE", "VAULT", "OPERATOR_NAMESPACE"},
    "docs/iam/*.json": {
        *("ACCOUNT", "REGION", "BUCKET", "PREFIX", "STUDY", "STORE_KEY", "DATA_BUCKET", "DATA_PREFIX"),
        *("VAULT_BUCKET", "VAULT_PREFIX", "VAULT_KEY", "AMI", "SECURITY_GROUP"),
    },
}
# What Ray reads below `provider` for AWS, and we use; its schema lets any other name pass.
PROVIDER = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


@pytest.fixture
def manifests() -> dict[str, list[dict[str, Any]]]:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for manifest in yaml.safe_load_all((KUBERAY / "rayjob.yaml").read_text()):
        by_kind.setdefault(manifest["kind"], []).append(manifest)
    return by_kind


def workers(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = cluster["available_node_types"]
    return {name: group for name, group in types.items() if name != cluster["head_node_type"]}


def policies() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(IAM.glob("*.json"))}


def ray_version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = (line for line in project["dependencies"] if line.startswith("ray["))
    return pin.split("==")[1]


# cluster.yaml


def test_ray_itself_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    # Of what is left out Ray takes its own defaults, among them a nightly wheel and an open dashboard.
    assert "nightly" not in str(prepared)
    assert "3.0.0.dev0" not in str(prepared)


def test_no_group_is_larger_than_the_cluster_and_all_go_back_to_nothing(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["max_workers"] == 0
    for name, group in workers(cluster).items():
        assert group["min_workers"] == 0, name
        assert 0 < group["max_workers"] <= cluster["max_workers"], name
        assert 60 <= group["idle_timeout_s"] <= 600, name
    assert 0 < cluster["idle_timeout_minutes"] <= 10


def test_the_head_takes_no_work_and_every_kind_of_work_has_its_nodes(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    groups = workers(cluster).values()
    found = {(group["labels"]["market"], group["resources"].get("GPU", 0)) for group in groups}
    assert found == {("spot", 1), ("on-demand", 1), ("spot", 8), ("on-demand", 8), ("on-demand", 0)}
    for name, group in workers(cluster).items():
        spot = group["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"}
        assert spot == (group["labels"]["market"] == "spot"), name


def test_ray_and_python_are_those_of_the_project(cluster: dict[str, Any]) -> None:
    files = [CLUSTER, KUBERAY / "Dockerfile", KUBERAY / "rayjob.yaml"]
    images = [
        tag for path in files for tag in re.findall(r"rayproject/ray:(\S+?)[\s\"}]", path.read_text())
    ]
    assert len(images) >= 3
    assert {image.rsplit("-", 1)[0] for image in images} == {f"{ray_version()}-py311"}
    assert f'rayVersion: "{ray_version()}"' in files[2].read_text()
    gpus = {group["docker"]["worker_image"] for group in workers(cluster).values() if "docker" in group}
    assert all(image.endswith("-gpu") for image in gpus)


def test_nobody_is_let_in_but_with_the_token(cluster: dict[str, Any]) -> None:
    assert not any(place in CLUSTER.read_text() for place in ANYWHERE)
    (head,) = (line for line in cluster["head_start_ray_commands"] if "ray start" in line)
    (worker,) = (line for line in cluster["worker_start_ray_commands"] if "ray start" in line)
    for command in (head, worker):
        assert re.search(r"RAY_AUTH_MODE=token\s[^;]*ray start", command)
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "vault" in str(cluster["rsync_exclude"])


def test_every_node_is_encrypted_fenced_and_has_its_own_role(cluster: dict[str, Any]) -> None:
    assert set(cluster["provider"]) == PROVIDER  # no security_group: one that Ray makes lets in every ssh
    assert cluster["provider"]["cache_stopped_nodes"] is False
    for name, group in cluster["available_node_types"].items():
        node = group["node_config"]
        assert node["SecurityGroupIds"] == ["<SECURITY_GROUP>"], name
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"]), name
        role = "multikey-head" if name == cluster["head_node_type"] else "multikey-worker"
        assert node["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{role}"), name


@pytest.mark.parametrize("pattern", PLACEHOLDERS)
def test_only_placeholders_stand_for_what_an_account_decides(pattern: str) -> None:
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob(pattern)))
    assert set(re.findall(r"<([A-Z_]+)>", text)) == PLACEHOLDERS[pattern]
    assert not re.search(r"\b(\d{12}|(ami|sg|subnet|vpc)-[0-9a-f]{8,}|AKIA\w+)\b", text)


def test_rays_aws_launcher_starts_the_nodes_the_file_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own bootstrap and node provider; moto stands in for EC2, which has no other local server."""
    from moto.server import ThreadedMotoServer
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    for name, value in {
        "HOME": str(tmp_path),  # the key pair Ray makes
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials it was made with
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        text, group = account(boto3.client("ec2"), boto3.client("iam"))
        config = _bootstrap_config(yaml.safe_load(text), no_config_cache=True)
        provider = _get_node_provider(config["provider"], config["cluster_name"])
        for name, node_type in config["available_node_types"].items():
            provider.create_node(node_type["node_config"], {"ray-user-node-type": name}, 1)
        started = boto3.client("ec2").describe_instances()["Reservations"]
        groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    finally:
        server.stop()
    nodes = {tags(node)["ray-user-node-type"]: node for found in started for node in found["Instances"]}
    assert set(nodes) == set(config["available_node_types"])
    assert {name for name, node in nodes.items() if node.get("InstanceLifecycle") == "spot"} == {
        *("gpu1_spot", "a100_spot")
    }
    for name, node in nodes.items():
        assert [one["GroupId"] for one in node["SecurityGroups"]] == [group], name
        assert node["IamInstanceProfile"]["Arn"].endswith("head" if name == "head" else "worker"), name
    # Ray opened nothing: our group is as we made it, and there is no other.
    assert not [one for one in groups if str(one["IpPermissions"]).find("0.0.0.0") >= 0]
    types = config["available_node_types"]
    assert types["gpu1"]["resources"]["accelerator_type:L4"] == 1  # what AWS says of the machine fits ours
    assert types["a100"]["resources"]["accelerator_type:A100"] == 1


def account(ec2: Any, iam: Any) -> tuple[str, str]:
    """The cluster file, its placeholders filled from a fresh account; and the security group made there."""
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="multikey", Description="multikey", VpcId=vpc)["GroupId"]
    profiles = [
        iam.create_instance_profile(InstanceProfileName=f"multikey-{role}") for role in ("head", "worker")
    ]
    arn = profiles[0]["InstanceProfile"]["Arn"]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    values = {"ACCOUNT": arn.split(":")[4], "AMI": image, "SECURITY_GROUP": group}
    text = CLUSTER.read_text()
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text, group


def tags(node: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in node["Tags"]}


# KubeRay


def test_the_rayjob_has_only_fields_that_kuberay_knows(manifests: dict[str, Any]) -> None:
    schema = json.loads((KUBERAY / "rayjob.schema.json").read_text())
    (job,) = manifests["RayJob"]
    jsonschema.Draft202012Validator(schema).validate(job)
    typo = yaml.safe_load(yaml.safe_dump(job))
    typo["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["idleTimeoutSecond"] = 1
    with pytest.raises(jsonschema.ValidationError, match="idleTimeoutSecond"):
        jsonschema.Draft202012Validator(schema).validate(typo)


def test_the_rayjob_fits_the_whole_definition_of_kuberay(manifests: dict[str, Any]) -> None:
    path = os.environ.get("KUBERAY_CRD")
    if not path:
        pytest.skip(
            "KUBERAY_CRD names no file: give it KubeRay v1.7.0's ray.io_rayjobs.yaml to check all fields"
        )
    versions = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    close(schema)
    jsonschema.Draft4Validator(schema).validate(manifests["RayJob"][0])


def close(schema: Any) -> None:
    """Refuse fields the definition does not name, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        for part in schema:
            close(part)
        return
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for part in schema.values():
        close(part)


def test_the_rayjob_scales_from_nothing_and_every_pod_is_confined(manifests: dict[str, Any]) -> None:
    spec = manifests["RayJob"][0]["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"] == {"mode": "token", "secretName": "multikey-token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"gpu1", "gpu4", "cpu"}
    for name, group in groups.items():
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"], name
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits.get("nvidia.com/gpu", "0") == {"gpu1": "1", "gpu4": "4", "cpu": "0"}[name]
    for template in templates(spec):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert all(not one["securityContext"]["allowPrivilegeEscalation"] for one in pod["containers"])
        assert template["metadata"]["labels"] == {"app": "multikey"}


def test_the_rayjobs_command_is_one_the_job_understands(manifests: dict[str, Any]) -> None:
    line = manifests["RayJob"][0]["spec"]["entrypoint"]
    uris = {
        "STORE": "s3://bucket/store?sse=kms&kms-key=alias/store",
        "VAULT": "aws-sm://keys?region=eu-west-1",
    }
    for name, uri in uris.items():
        line = line.replace(f"<{name}>", uri)
    # KubeRay hands the line to a shell; punctuation that it would act on shows as words of its own.
    shell = shlex.shlex(line, posix=True, punctuation_chars=True)
    shell.whitespace_split = True
    command = parse(list(shell)[2:])
    assert (command.store, command.vault) == (uris["STORE"], uris["VAULT"])
    assert (command.study.n_keys, command.workers_per_model) == (32, 4)


def templates(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = spec["rayClusterSpec"]
    yield spec["submitterPodTemplate"]
    yield cluster["headGroupSpec"]["template"]
    yield from (group["template"] for group in cluster["workerGroupSpecs"])


def test_pods_of_the_study_share_memory_and_only_they_reach_each_other(manifests: dict[str, Any]) -> None:
    spec = manifests["RayJob"][0]["spec"]
    for template in list(templates(spec))[1:]:
        pod = template["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["medium"] == "Memory"
        assert set(mounts.values()) <= set(volumes)
    (policy,) = manifests["NetworkPolicy"]
    assert policy["spec"]["podSelector"] == {"matchLabels": {"app": "multikey"}}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    pods, operator = policy["spec"]["ingress"]
    assert pods == {"from": [{"podSelector": {"matchLabels": {"app": "multikey"}}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_workers_have_no_account_in_kubernetes_and_not_the_heads_role(manifests: dict[str, Any]) -> None:
    cluster = manifests["RayJob"][0]["spec"]["rayClusterSpec"]
    accounts = {account["metadata"]["name"] for account in manifests["ServiceAccount"]}
    head = cluster["headGroupSpec"]["template"]["spec"]["serviceAccountName"]
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert {head, pod["serviceAccountName"]} == accounts
        assert pod["automountServiceAccountToken"] is False


# docs/iam

STUDY = "arn:aws:s3:::<BUCKET>/<PREFIX>/<STUDY>"
KEY_CALLS = {"kms:GenerateDataKey", "kms:Decrypt"}
OBJECT_CALLS = {
    *("s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
    *("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
}
BUCKET_CALLS = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
BUCKET_SETTINGS = {
    *("s3:GetBucketPolicy", "s3:GetBucketPolicyStatus", "s3:GetBucketPublicAccessBlock", "s3:GetBucketAcl"),
    *("s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration", "s3:GetBucketVersioning"),
}
SECRET_CALLS = {"secretsmanager:CreateSecret", "secretsmanager:GetSecretValue"}
NODE_CALLS = {"ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "iam:PassRole"}
# AWS knows no single resources for these.
UNCONFINED = {"ec2:DescribeInstances"}


def statements(policy: dict[str, Any], effect: str) -> list[dict[str, Any]]:
    return [one for one in policy.get("Statement", ()) if one["Effect"] == effect]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def may(role: str, action: str, resource: str) -> bool:
    """Whether a role's policy lets it do this, as AWS decides it; conditions are taken to hold."""
    said = [
        one["Effect"]
        for one in policies()[role]["Statement"]
        if action in one["Action"] and any(fnmatchcase(resource, end) for end in listed(one["Resource"]))
    ]
    return "Deny" not in said and "Allow" in said


def test_no_policy_allows_more_calls_than_the_code_makes() -> None:
    known = (
        OBJECT_CALLS | BUCKET_CALLS | BUCKET_SETTINGS | SECRET_CALLS | KEY_CALLS | NODE_CALLS | UNCONFINED
    )
    for name, policy in policies().items():
        for one in statements(policy, "Allow"):
            assert set(one["Action"]) <= known | {"sts:AssumeRole"}, name
            assert "*" not in "".join(one["Action"]), name
            assert "Principal" not in one or one["Principal"] == {"Service": "ec2.amazonaws.com"}, name


def test_no_policy_allows_anything_outside_its_prefix() -> None:
    for name, policy in policies().items():
        for one in statements(policy, "Allow"):
            for end in listed(one.get("Resource", [])):
                if end == "*":
                    assert set(one["Action"]) <= UNCONFINED, name
                elif end.startswith("arn:aws:s3:::") and "/" not in end:
                    assert set(one["Action"]) <= BUCKET_CALLS | BUCKET_SETTINGS, name
                    lists = set(one["Action"]) & BUCKET_CALLS
                    assert not lists or "s3:prefix" in str(one["Condition"]), name
                elif end.startswith("arn:aws:s3:::"):
                    assert re.match(r"arn:aws:s3:::<(\w+_)?BUCKET>/<(\w+_)?PREFIX>(/|$)", end), name
                elif end.startswith("arn:aws:kms:"):
                    assert end.endswith(("/<STORE_KEY>", "/<VAULT_KEY>")), name
                    assert "kms:ViaService" in str(one["Condition"]), name
                else:
                    assert "<ACCOUNT>" in end or "::image/<AMI>" in end, name


@pytest.mark.parametrize("area", ["models/k-3d2a702b2e4c/full", "checkpoints/k-3d2a702b2e4c.full/00003"])
def test_weights_are_for_driver_and_workers_alone(area: str) -> None:
    weights = f"{STUDY}/{area}/0123/weights.safetensors"
    for role in ("driver", "worker"):
        assert may(role, "s3:GetObject", weights)
        assert may(role, "s3:PutObject", weights)
    for role in ("reader", "auditor"):
        assert not may(role, "s3:GetObject", weights)
        # Another study's are not, and one named after a folder that may be read opens nothing.
        assert not may(role, "s3:GetObject", weights.replace("<STUDY>", "report"))


def test_readers_read_results_and_auditors_read_how_all_was_made() -> None:
    results = (
        f"{STUDY}/report/0123/index.html",
        f"{STUDY}/outcomes/a/b/00000/c/0123/outcomes.parquet",
    )
    assert all(may("reader", "s3:GetObject", result) for result in results)
    assert not may("reader", "s3:GetObject", f"{STUDY}/keys/00000/record.json")
    assert may("auditor", "s3:GetObject", f"{STUDY}/models/k-3d2a702b2e4c/full/record.json")
    for role in ("reader", "auditor"):
        allowed = {action for one in statements(policies()[role], "Allow") for action in one["Action"]}
        assert not allowed & {"s3:PutObject", "s3:DeleteObject", *SECRET_CALLS}


def test_a_worker_cannot_change_what_the_study_is_nor_what_it_says() -> None:
    for address in ("study", "keys/00000", "matrix", "report", "catalogue/outcomes"):
        assert not may("worker", "s3:PutObject", f"{STUDY}/{address}/record.json")
        assert may("driver", "s3:PutObject", f"{STUDY}/{address}/record.json")


@pytest.mark.parametrize("kind", ["bucket", "secrets"])
def test_workers_open_keys_and_only_the_driver_creates_them_and_nobody_deletes_them(kind: str) -> None:
    calls = {
        who: {
            call for one in statements(policies()[f"vault-{kind}-{who}"], "Allow") for call in one["Action"]
        }
        for who in ("driver", "worker")
    }
    create = {"bucket": "s3:PutObject", "secrets": "secretsmanager:CreateSecret"}[kind]
    assert create in calls["driver"]
    assert create not in calls["worker"]
    assert not any("Delete" in call for who in calls.values() for call in who)


def test_the_bucket_refuses_plain_connections_strangers_and_other_encryption() -> None:
    denied = {
        one["Sid"]: one for one in policies()["bucket-policy"]["Statement"] if one["Effect"] == "Deny"
    }
    assert set(denied) == {"OnlyTls", "OnlyThisAccount", "NoOtherEncryption", "NoOtherKey"}
    assert denied["OnlyTls"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    for name in ("NoOtherEncryption", "NoOtherKey"):
        # Parts of an upload carry no such header: without Null they would be denied too.
        (header,) = denied[name]["Condition"]["StringNotEquals"]
        assert denied[name]["Condition"]["Null"] == {header: "false"}
    assert all(policies()["bucket-public-access"].values())
    (rule,) = policies()["bucket-encryption"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert policies()["bucket-lifecycle"]["Rules"][0]["AbortIncompleteMultipartUpload"] == {
        "DaysAfterInitiation": 2
    }


def test_the_head_starts_only_the_machines_of_the_cluster_file(cluster: dict[str, Any]) -> None:
    (start,) = (one for one in policies()["head"]["Statement"] if one["Sid"] == "StartNodesOfTheseKinds")
    kinds = {group["node_config"]["InstanceType"] for group in workers(cluster).values()}
    assert set(start["Condition"]["StringEquals"]["ec2:InstanceType"]) == kinds
    assert start["Condition"]["StringEquals"]["aws:RequestTag/ray-cluster-name"] == cluster["cluster_name"]


def test_a_real_server_gives_each_role_what_its_policy_says(
    ceph: Ceph, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{bucket}/all/imagenet?cache-gb=0"
    record = ArtifactRecord(recipe={"made": "here"}, files={"file": FileEntry.of(b"payload")})
    for address in ("report", "outcomes/a/b", "models/k-3d2a702b2e4c/full"):
        open_store(uri).commit(address, record, {"file": b"payload"})
    users = {role: ceph.add_user(f"{role}-{bucket}") for role in ("reader", "worker")}
    granted = [one for role in users for one in as_grants(role, f"{role}-{bucket}", bucket)]
    policy = json.dumps({"Version": "2012-10-17", "Statement": granted})
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=policy)

    def become(role: str) -> ArtifactStore:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", users[role].access)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", users[role].secret)
        return open_store(uri)

    reader = become("reader")
    assert reader.read("report", "file") == reader.read("outcomes/a/b", "file") == b"payload"
    with pytest.raises(StoreError, match=r"s3:GetObject on .*/models/.*access is denied"):
        reader.read("models/k-3d2a702b2e4c/full", "file")
    with pytest.raises(StoreError, match=r"s3:PutObject on .*access is denied"):
        reader.commit("report/mine", record, {"file": b"payload"})
    worker = become("worker")
    assert worker.read("models/k-3d2a702b2e4c/full", "file") == b"payload"
    # What is not there is told as absent, not as forbidden: a worker decides by it what to make.
    assert not worker.has("models/k-000000000000/full")
    assert worker.commit("models/k-000000000000/full", record, {"file": b"payload"})
    assert worker.sweep(0.0) == 0
    with pytest.raises(StoreError, match=r"s3:PutObject on .*access is denied"):
        worker.commit("matrix", record, {"file": b"payload"})


def as_grants(role: str, user: str, bucket: str) -> list[dict[str, Any]]:
    """A role's rights in the store, as the bucket itself grants them: Ceph's users have no policies."""
    text = (IAM / f"{role}.json").read_text()
    for name, value in {"BUCKET": bucket, "PREFIX": "all", "STUDY": "imagenet"}.items():
        text = text.replace(f"<{name}>", value)
    rights = [one for one in json.loads(text)["Statement"] if bucket in str(one["Resource"])]
    return [{**one, "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}} for one in rights]
