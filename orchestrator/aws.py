"""AWS clients with ambient credentials, patience with passing trouble, and plain words for the rest."""

import functools
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    InvalidConfigError,
    NoCredentialsError,
    SSLError,
)

Answer = TypeVar("Answer")

# One object's connection never waits for another's: bulk reads use up to this many threads.
CONNECTIONS = 32
# How long one operation waits in all for a service that is slow, restarting or out of reach.
PATIENCE_SECONDS = 120.0
_LONGEST_PAUSE_SECONDS = 8.0
_TRIES_WITH_EXPIRED = 3

_EXPLAINED = {
    "AccessDenied": "access is denied: the role or user in use lacks the permission",
    "403": "access is denied: the role or user in use lacks the permission",
    "NoSuchBucket": "the bucket does not exist: create it, or mend the URI",
    "InvalidAccessKeyId": "the access key is unknown there: check profile, role and endpoint",
    "SignatureDoesNotMatch": "the secret key is wrong: check profile, role and endpoint",
    "ExpiredToken": "the credentials have expired: renew them and rerun",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SlowDown": "the service asks to slow down: rerun later or with fewer workers",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
# What services say in passing with a status below 500; from 500 on all but "not implemented" passes.
_PASSING = {
    *("SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException", "429"),
    *("RequestTimeout", "ConditionalRequestConflict", "OperationAborted", "IncompleteBody"),
}
_log = logging.getLogger(__name__)


def client(service: str, endpoint: str = "", region: str = "") -> Any:
    """A client of an AWS service or of what speaks like it; one per process, safe to share by threads.

    Credentials, profile, role and region are ambient (environment, ``~/.aws``, instance role), and so
    is the endpoint (``AWS_ENDPOINT_URL``) unless one is given.

    Raises:
        BotoCoreError: there is no such profile, or the endpoint is not a URL.
    """
    # A forked process must not share its parent's connections, nor a client outlive its environment.
    ambient = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _client(service, endpoint, region, os.getpid(), ambient)


@functools.cache
def _client(service: str, endpoint: str, region: str, *_of: Any) -> Any:
    custom = endpoint_of(service, endpoint) != ""
    config = Config(
        # Two quick repeats; `patiently` does the waiting.
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=10,
        read_timeout=30,
        max_pool_connections=CONNECTIONS,
        # Servers other than AWS refuse checksum trailers (411); signature and our own digests remain.
        request_checksum_calculation="when_required" if custom else "when_supported",
        response_checksum_validation="when_required" if custom else "when_supported",
        s3={"addressing_style": "path"} if custom else {},
    )
    session = boto3.session.Session()
    region = region or session.region_name or "us-east-1"
    try:
        return session.client(service, endpoint_url=endpoint or None, region_name=region, config=config)
    except ValueError as error:  # what botocore says of a URL that is none
        raise InvalidConfigError(error_msg=str(error)) from None


def endpoint_of(service: str, endpoint: str = "") -> str:
    """The server that stands in for AWS: the given one, else the environment's, else none."""
    ambient = os.environ.get("AWS_ENDPOINT_URL", "")
    named = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}", ambient)
    return endpoint or named


def patiently(call: Callable[[], Answer], seconds: float | None = None) -> Answer:
    """What ``call`` answers; called again, with growing random pauses, while the trouble is a passing one.

    Args:
        call: One operation that may be repeated. It takes its client from ``client`` each time.
        seconds: How long to keep trying; ``PATIENCE_SECONDS`` where not given.

    Raises:
        ClientError: the service refused, or its trouble did not pass.
        BotoCoreError: the service was not reached in that time, or cannot be asked at all.
    """
    began = time.monotonic()
    patience = PATIENCE_SECONDS if seconds is None else seconds
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except (ClientError, BotoCoreError) as error:
            pause = random.uniform(0.2, 1.0) * min(_LONGEST_PAUSE_SECONDS, 0.25 * 2**attempt)  # noqa: S311
            late = time.monotonic() - began + pause > patience
            if late or not (passing(error) or (expired(error) and attempt < _TRIES_WITH_EXPIRED)):
                raise
            if expired(error):
                # A new client reads the profile again, where someone may have renewed the credentials.
                _client.cache_clear()
            _log.log(logging.WARNING if attempt == 4 else logging.DEBUG, "trying again: %s", explain(error))
        time.sleep(pause)


def passing(error: ClientError | BotoCoreError) -> bool:
    """Whether the same call may well succeed later: overload, restarts, lost or cut connections."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code(error) in _PASSING or (status >= 500 and status != 501)
    if isinstance(error, SSLError) and "CERTIFICATE" in str(error):
        return False
    return isinstance(
        error, ConnectionError | HTTPClientError | IncompleteReadError | FlexibleChecksumError
    )


def expired(error: ClientError | BotoCoreError) -> bool:
    """Whether the credentials were good once and are no longer."""
    return isinstance(error, ClientError) and code(error) in _EXPIRED


def code(error: ClientError) -> str:
    """The service's own code, e.g. ``NoSuchKey``, or the HTTP status where it gave none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain(error: ClientError | BotoCoreError) -> str:
    """What happened and what to do, in half a sentence."""
    if isinstance(error, NoCredentialsError):
        return "no credentials were found: set a profile, a role or AWS_ACCESS_KEY_ID"
    if isinstance(error, ClientError):
        told = "ExpiredToken" if expired(error) else code(error)
        return _EXPLAINED.get(told, f"{told}: {str(error)[:160]}")
    if passing(error):
        return f"the service is out of reach: check endpoint and network; {str(error)[:160]}"
    return f"{type(error).__name__}: {str(error)[:160]}"
