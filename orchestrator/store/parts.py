"""Large objects written in parts: each part is tried again by itself, and nothing shows before the last."""

import contextlib
import time
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.bucket import TIDY_SECONDS, Bucket
from orchestrator.store.bulk import in_order

PART_BYTES = 16 << 20
"""What is larger goes in parts of at least this many bytes."""
_MOST_PARTS = 10_000
_AT_ONCE = 4


def put_in_parts(bucket: Bucket, key: str, content: bytes) -> None:
    """Write an object in parts, several at once; it appears whole with the last step.

    Raises:
        StoreError: it could not be written; what was sent is removed as far as that goes quickly.
    """
    step = max(PART_BYTES, -(-len(content) // _MOST_PARTS))
    upload = bucket.call("create_multipart_upload", key, bucket.place.encryption)["UploadId"]

    def put(start: int) -> dict[str, Any]:
        number, part = start // step + 1, content[start : start + step]
        asked = {"UploadId": upload, "PartNumber": number, "Body": part}
        reply = bucket.call("upload_part", key, asked)
        return {"PartNumber": number, "ETag": reply["ETag"]}

    try:
        parts = {"Parts": list(in_order(put, range(0, len(content), step), _AT_ONCE))}
        # An upload that is gone was completed by a call whose reply was lost: the look below tells.
        asked = {"UploadId": upload, "MultipartUpload": parts}
        bucket.call("complete_multipart_upload", key, asked, answers={"NoSuchUpload": None})
    except BaseException:
        _abort(bucket, key, upload)
        raise
    if bucket.call("head_object", key, answers={"404": {}}).get("ContentLength") != len(content):
        raise StoreError(f"{bucket.name(key)} was not stored whole: someone ended its upload. Rerun.")


def abort_uploads(bucket: Bucket, older_than_seconds: float) -> int:
    """End uploads that nobody will complete any more; how many there were."""
    limit, ended = time.time() - older_than_seconds, 0
    after: dict[str, str] = {}
    while True:
        page = bucket.call("list_multipart_uploads", "", after)
        for found in page.get("Uploads", ()):
            if found["Initiated"].timestamp() < limit:
                _abort(bucket, found["Key"].removeprefix(bucket.root), found["UploadId"])
                ended += 1
        if not page.get("IsTruncated"):
            return ended
        after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _abort(bucket: Bucket, key: str, upload: str) -> None:
    # What cannot be ended now is invisible, and ended by a later sweep or the bucket's lifecycle.
    with contextlib.suppress(StoreError):
        asked, gone = {"UploadId": upload}, {"NoSuchUpload": None}
        bucket.call("abort_multipart_upload", key, asked, answers=gone, seconds=TIDY_SECONDS)
