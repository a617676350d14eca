"""Probes of a bucket's server: who it is, whether it checks signatures, encrypts, and knows the time."""

import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from orchestrator import aws
from orchestrator.checkup.probe import Finding, Patient, Probe, fail, ok, warn
from orchestrator.store.record import RECORD_FILE

# The first probe of a store leaves this object.
_KEY = f"probe/{RECORD_FILE}"
_SKEW_SECONDS = 30.0
_REFUSED = ("SignatureDoesNotMatch", "AccessDenied", "InvalidAccessKeyId", "Forbidden", "403")


class _Known(NamedTuple):
    """A server as its headers give it away, and what was measured on it."""

    header: str
    begins: str
    name: str
    unfit: str


# rclone says it is this server, too, wherever it listens.
_AWS = _Known("server", "AmazonS3", "AWS S3", "")
_AWS_HOST = re.compile(r"\.amazonaws\.com(\.cn)?$")
# A race that one writer wins proves little: Swift lets one win now and then, moto always.
_SERVERS = (
    _Known("x-openstack-request-id", "tx", "OpenStack Swift", "two writers at once may both win there"),
    _AWS,
    _Known("x-amz-request-id", "tx0000", "Ceph RGW", ""),
    _Known("server", "Werkzeug", "moto", "it keeps everything in memory and takes any key"),
)


def _headers(patient: Patient) -> Mapping[str, str]:
    reply: Mapping[str, Any] = patient.bench.reply("head_object", _KEY)
    headers: Mapping[str, str] = reply["ResponseMetadata"]["HTTPHeaders"]
    return headers


def _server(patient: Patient) -> Iterator[Finding]:
    headers = _headers(patient)
    known = next((k for k in _SERVERS if headers.get(k.header, "").startswith(k.begins)), None)
    endpoint = aws.endpoint_of("s3", patient.bench.bucket.place.endpoint)
    pretends = known is _AWS and endpoint and not _AWS_HOST.search(urlsplit(endpoint).hostname or "")
    if known is None or pretends:
        told = headers.get("server", "a server that does not say who it is")
        told += " by its word, which is not AWS" if pretends else ""
        yield warn(
            f"{told}: not one this project was tried on",
            "That a race was won by one proves little. Ask its makers whether a put with If-None-Match is "
            "atomic; until then run one driver at a time.",
        )
    elif known.unfit:
        yield fail(f"{known.name}: {known.unfit}", "Use AWS S3 or Ceph.")
    else:
        yield ok(f"{known.name}, whose conditional writes are atomic")


def _signature(patient: Patient) -> Iterator[Finding]:
    """The server is asked once with a signature that is wrong in its last digit: no secret is touched."""
    place = patient.bench.bucket.place
    events = aws.client("s3", place.endpoint, place.region).meta.events
    event, answers = "before-send.s3.GetObject", dict.fromkeys(_REFUSED)
    events.register(event, _forge)
    try:
        reply = patient.bench.bucket.call("get_object", _KEY, answers=answers, seconds=5.0)
    finally:
        events.unregister(event, _forge)
    if reply is None:
        yield ok("refused (403)")
    else:
        yield fail(
            "the server takes any secret key: whoever reaches it reads and changes weights",
            "Turn its authentication on, or use another server.",
        )


def _forge(request: Any, **_: Any) -> None:
    signed = request.headers["Authorization"]
    text = signed.decode() if isinstance(signed, bytes) else str(signed)
    request.headers["Authorization"] = text[:-1] + ("1" if text.endswith("0") else "0")


def _encryption(patient: Patient) -> Iterator[Finding]:
    # What was asked for and not confirmed has ended the first probe of the store already.
    said = patient.bench.reply("head_object", _KEY).get("ServerSideEncryption", "")
    asked = patient.bench.bucket.place.sse
    if asked:
        yield ok(f"sse={asked} as asked, and the server confirms {said}")
    elif said:
        yield ok(f"{said}, by the bucket's own default")
    else:
        yield warn(
            "none was asked for, and the server speaks of none",
            "Add ?sse=kms (or ?sse=s3) to --store: weights are as secret as keys.",
        )


def _clock(patient: Patient) -> Iterator[Finding]:
    told = parsedate_to_datetime(_headers(patient)["date"]).timestamp()
    ahead = time.time() - told
    if abs(ahead) > _SKEW_SECONDS:
        which = "ahead of" if ahead > 0 else "behind"
        yield warn(
            f"this machine is {abs(ahead):.0f} s {which} the server",
            "Set the clock: S3 refuses what is signed 15 minutes away from its own time.",
        )
    else:
        yield ok(f"within {_SKEW_SECONDS:.0f} s of the server's")


def _in_bucket(patient: Patient) -> bool:
    return patient.in_bucket


_MEND = "Look whether endpoint and network are up, then run the doctor again."

PROBES = tuple(
    Probe(topic="store", name=name, look=look, advice=_MEND, when=_in_bucket)
    for name, look in (
        ("server", _server),
        ("wrong secret key", _signature),
        ("encryption", _encryption),
        ("clock", _clock),
    )
)
