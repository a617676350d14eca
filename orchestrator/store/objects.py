"""Objects: bytes by key in a bucket; written whole or not at all, encrypted as asked, read in ranges."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.bucket import TIDY_SECONDS, Bucket
from orchestrator.store.bulk import in_order
from orchestrator.store.parts import PART_BYTES, abort_uploads, put_in_parts
from orchestrator.store.uri import StoreUri

RANGE_BYTES = 8 << 20
"""What is larger is read in ranges of this many bytes, several at once."""
_AT_ONCE = 4


@dataclass(frozen=True)
class Listed:
    """One object as a listing shows it."""

    key: str
    stamp: str
    """Changes whenever the object is replaced."""
    modified: float
    """When it was written, in seconds since the epoch, by the server's clock."""


class Objects:
    """Keys are relative to the prefix. Every method raises StoreError for trouble that does not pass."""

    def __init__(self, place: StoreUri) -> None:
        self._bucket = Bucket(place)

    def exists(self, key: str) -> bool:
        """Whether there is an object at the key."""
        # One byte of it rather than HEAD, whose refusals come without words.
        answers = {"NoSuchKey": False, "InvalidRange": True}
        return bool(self._bucket.call("get_object", key, {"Range": "bytes=0-0"}, answers=answers))

    def get(self, key: str, size_bytes: int) -> bytes | None:
        """The object, None where there is none; other bytes where it is not of this size."""
        if size_bytes <= RANGE_BYTES:
            return self.get_small(key, size_bytes)
        starts = range(0, size_bytes, RANGE_BYTES)
        last = size_bytes - 1
        parts = list(in_order(lambda at: self._range(key, at, last), starts, _AT_ONCE))
        return b"".join(part or b"" for part in parts) if any(parts) else None

    def get_small(self, key: str, most_bytes: int) -> bytes | None:
        """The object, None where there is none; empty where it has more bytes than that."""
        return self._fetch(key, most_bytes, {})

    def _range(self, key: str, start: int, last: int) -> bytes | None:
        end = min(start + RANGE_BYTES - 1, last)
        return self._fetch(key, end + 1 - start, {"Range": f"bytes={start}-{end}"})

    def _fetch(self, key: str, most_bytes: int, ranged: Mapping[str, str]) -> bytes | None:
        def body(reply: Mapping[str, Any]) -> bytes:
            with contextlib.closing(reply["Body"]) as stream:
                return bytes(stream.read()) if reply["ContentLength"] <= most_bytes else b""

        # The body is read within the call, so that one that breaks off is fetched again: boto3 does not.
        answers = {"NoSuchKey": None, "InvalidRange": b""}
        content: bytes | None = self._bucket.call("get_object", key, ranged, answers=answers, then=body)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Write an object, whole or not at all; large ones in parts."""
        if len(content) > PART_BYTES:
            put_in_parts(self._bucket, key, content)
            self._check_encryption(key, {})
        else:
            reply = self._bucket.call("put_object", key, {"Body": content, **self._encryption})
            self._check_encryption(key, reply)

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object in one step unless there is one at the key; whether this call saw itself win.

        False is also the answer to a winner whose reply was lost on the way and who asked again.
        """
        lost = dict.fromkeys(("PreconditionFailed", "412"))
        new = {"Body": content, "IfNoneMatch": "*", **self._encryption}
        reply = self._bucket.call("put_object", key, new, answers=lost)
        if reply is not None:
            self._check_encryption(key, reply)
        return reply is not None

    def delete(self, keys: Iterable[str], seconds: float | None = None) -> None:
        """Remove objects; those that are not there already are."""
        for key in keys:
            self._bucket.call("delete_object", key, seconds=seconds)

    def tidy(self, keys: Iterable[str]) -> None:
        """Remove what nobody sees, as far as that goes quickly: a later sweep removes the rest."""
        with contextlib.suppress(StoreError):
            self.delete(keys, TIDY_SECONDS)

    def listing(self, prefix: str) -> Iterator[Listed]:
        """All objects whose keys start with ``prefix``, in the order of their keys."""
        after: dict[str, str] = {}
        while True:
            page = self._bucket.call("list_objects_v2", prefix, after)
            for found in page.get("Contents", ()):
                at = found["LastModified"]
                stamp = f"{found['ETag'].strip(chr(34))}-{at:%Y%m%dT%H%M%S.%f}"
                yield Listed(found["Key"].removeprefix(self._bucket.root), stamp, at.timestamp())
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def abort_uploads(self, older_than_seconds: float) -> int:
        """End uploads in parts that nobody will complete any more; how many there were."""
        return abort_uploads(self._bucket, older_than_seconds)

    @property
    def _encryption(self) -> Mapping[str, str]:
        return self._bucket.place.encryption

    def _check_encryption(self, key: str, reply: Mapping[str, Any]) -> None:
        """Raise, and remove the object, unless the server says that it encrypted it as asked."""
        said, wanted = "ServerSideEncryption", self._encryption.get("ServerSideEncryption")
        if wanted is None or reply.get(said) == wanted:
            return
        if self._bucket.call("head_object", key).get(said) != wanted:
            self.delete([key])
            place = self._bucket.place
            raise StoreError(
                f"The server of {place.place} ignored sse={place.sse} and stored in clear what was to be "
                "encrypted; it was removed. Use a server that encrypts, or leave the option out."
            )
