"""Bucket: one prefix of a bucket and how it is asked; passing trouble is ridden out, the rest told."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator import aws
from orchestrator.errors import StoreError
from orchestrator.store.uri import StoreUri

TIDY_SECONDS = 3.0
"""How long to try to remove what nobody sees; a later sweep removes it otherwise."""
# What a user must be allowed to do; the name of a call is not always that of its permission.
_ACTIONS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}
_LISTINGS = ("list_objects_v2", "list_multipart_uploads")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _itself(reply: Any) -> Any:
    return reply


class Bucket:
    """Keys are relative to the prefix. The client is the process's own, so a bucket may be forked."""

    def __init__(self, place: StoreUri) -> None:
        self.place = place
        self.root = f"{place.prefix}/" if place.prefix else ""

    def call(
        self,
        operation: str,
        key: str,
        arguments: Mapping[str, Any] = _NOTHING,
        *,
        answers: Mapping[str, Any] = _NOTHING,
        then: Callable[[Any], Any] = _itself,
        seconds: float | None = None,
    ) -> Any:
        """What boto3's ``operation`` answers, on one object or on those whose keys begin with ``key``.

        Args:
            operation: Name of a method of boto3's S3 client.
            key: The object's key, or what the keys to list start with.
            arguments: Further arguments of the operation.
            answers: What to answer, in place of an error, where the service gives one of these codes.
            then: Made of every reply; what it raises of botocore's errors is ridden out like the call's.
            seconds: How long to be patient; as long as ``aws`` is where not given.

        Raises:
            StoreError: the service refused, or trouble did not pass; says which permission on what.
        """
        where = "Prefix" if operation in _LISTINGS else "Key"
        asked = {"Bucket": self.place.bucket, where: self.root + key, **arguments}

        def once() -> Any:
            client = aws.client("s3", self.place.endpoint, self.place.region)
            return then(getattr(client, operation)(**asked))

        try:
            return aws.patiently(once, seconds)
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and aws.code(error) in answers:
                return answers[aws.code(error)]
            raise StoreError(
                f"The store cannot {_ACTIONS[operation]} on {self.name(key)} ({aws.explain(error)})."
            ) from None

    def name(self, key: str) -> str:
        """The ``s3://`` URI of an object."""
        return f"s3://{self.place.bucket}/{self.root}{key}"
