"""ObjectVault: one object a key in S3, always under SSE-KMS, created by one conditional put."""

import contextlib
import functools
from collections.abc import Iterable
from typing import Any

from botocore.exceptions import ClientError

from orchestrator import aws
from orchestrator.errors import VaultError
from orchestrator.keys.remote import THREADS, ask, connect
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.slots import SlotVault, read_key, write_key
from orchestrator.keys.vault_uri import VaultUri

# Somebody has written this object; we ourselves, where the answer to an earlier try was lost.
_TAKEN = ("PreconditionFailed", "412")
_ABSENT = ("NoSuchKey", "404")
_ANYONE = ("/global/AllUsers", "/global/AuthenticatedUsers")
# Nothing longer is a key; what is there is not fetched.
_MOST_BYTES = 1024


class ObjectVault(SlotVault):
    """``s3://bucket/prefix``: object ``{prefix}/{study}/{slot}.key`` holds 64 hex digits and a newline.

    Reading a key takes the right to the object and the right to the KMS key, which are given apart.
    """

    threads = THREADS

    def __init__(self, place: VaultUri) -> None:
        self.place = place
        self.uri = str(place)

    def ensure(self, study: str, count: int) -> tuple[str, ...]:
        """Key ids of slots 0..count-1; a bucket that says it is public is refused before anything."""
        said = ask(self.place, self._openings)
        if said:
            raise VaultError(
                f"Bucket {self.place.root} is open to the public (by its {' and '.join(said)}), and keys "
                "would lie in it. Block public access to it, or name another --vault."
            )
        return super().ensure(study, count)

    @property
    def _client(self) -> Any:
        return connect("s3", self.place)

    def _object(self, study: str, slot: int) -> dict[str, str]:
        return {"Bucket": self.place.root, "Key": f"{self._folder(study)}{slot:05d}.key"}

    def _folder(self, study: str) -> str:
        return f"{self.place.prefix}/{study}/".lstrip("/")

    def _occupied(self, study: str, count: int) -> Iterable[int]:
        def names() -> set[str]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.place.root, Prefix=self._folder(study)
            )
            return {entry["Key"] for page in pages for entry in page.get("Contents", ())}

        there = ask(self.place, names)
        return [slot for slot in range(count) if self._object(study, slot)["Key"] in there]

    def _fill(self, study: str, slot: int) -> None:
        where = self._object(study, slot)
        written = ask(self.place, functools.partial(self._put, where))
        if written is None or _sealed(ask(self.place, lambda: self._client.head_object(**where))):
            return
        raise VaultError(
            f"The server of vault {self.uri} stored a key without SSE-KMS; {self._drop(where, written)}. "
            "Use a server that honours SSE-KMS, or name another --vault."
        )

    def _drop(self, where: dict[str, str], written: dict[str, Any]) -> str:
        """Delete what was just written, and say what became of it."""
        # With its version, where the bucket keeps versions: else the bytes stay behind.
        version = {"VersionId": written["VersionId"]} if "VersionId" in written else {}
        try:
            ask(self.place, lambda: self._client.delete_object(**where, **version))
        except VaultError:
            return f"it could not be deleted again and lies at {where['Key']}"
        return "it was deleted again"

    def _put(self, where: dict[str, str]) -> dict[str, Any] | None:
        """The answer to a fresh key; None where the object exists, perhaps by an earlier try of ours."""
        content = f"{write_key(SecretKey.generate())}\n".encode()
        encryption = {"ServerSideEncryption": "aws:kms"}
        if self.place.kms_key:
            encryption["SSEKMSKeyId"] = self.place.kms_key
        try:
            answer: dict[str, Any] = self._client.put_object(
                **where, **encryption, Body=content, IfNoneMatch="*"
            )
        except ClientError as error:
            if aws.code(error) in _TAKEN:
                return None
            raise
        return answer

    def _look(self, study: str, slot: int) -> SecretKey | None:
        where = self._object(study, slot)
        found = ask(self.place, functools.partial(self._get, where))
        if found is None:
            return None
        sealed, content = found
        if not sealed:
            raise VaultError(
                f"Object {where['Key']} of vault {self.uri} is stored without SSE-KMS. "
                "Consider the key known, and find out who put it there."
            )
        return read_key(content.decode("ascii", "replace"), f"Object {where['Key']} of vault {self.uri}")

    def _get(self, where: dict[str, str]) -> tuple[bool, bytes] | None:
        """Whether an object is under SSE-KMS, and its content; None where there is none."""
        try:
            answer = self._client.get_object(**where)
        except ClientError as error:
            if aws.code(error) in _ABSENT:
                return None
            raise
        with contextlib.closing(answer["Body"]) as body:
            return _sealed(answer), body.read() if answer["ContentLength"] <= _MOST_BYTES else b""

    def _openings(self) -> list[str]:
        """What opens the bucket to the public; best effort, as not every server or role can tell."""
        bucket, said = {"Bucket": self.place.root}, []
        with contextlib.suppress(ClientError):  # no policy, no right to see it, or no such call there
            if self._client.get_bucket_policy_status(**bucket)["PolicyStatus"].get("IsPublic"):
                said.append("policy")
        with contextlib.suppress(ClientError):
            grants = self._client.get_bucket_acl(**bucket).get("Grants", ())
            if any(grant["Grantee"].get("URI", "").endswith(_ANYONE) for grant in grants):
                said.append("ACL")
        return said


def _sealed(reply: dict[str, Any]) -> bool:
    """Whether the server says that an object is under SSE-KMS (``aws:kms`` or ``aws:kms:dsse``)."""
    return str(reply.get("ServerSideEncryption", "")).startswith("aws:kms")
