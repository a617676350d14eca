"""Calls to AWS on behalf of a vault: patient, silent in the log, refused in sentences without keys."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator import aws
from orchestrator.errors import VaultError
from orchestrator.keys.vault_uri import VaultUri

_Answer = TypeVar("_Answer")
THREADS = aws.CONNECTIONS


def connect(service: str, place: VaultUri) -> Any:
    """A client of ``service`` where the vault is; it never logs what it sends and receives."""
    logger = logging.getLogger("botocore")
    # At DEBUG botocore writes request and response bodies into the log, and here they are keys.
    if logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)
    return aws.client(service, place.endpoint, place.region)


def ask(place: VaultUri, call: Callable[[], _Answer]) -> _Answer:
    """What ``call`` answers, which may be called again while the service is slow, restarting or away.

    Raises:
        VaultError: the service refused, or its trouble did not pass within ``aws.PATIENCE_SECONDS``.
    """
    try:
        return aws.patiently(call)
    except (ClientError, BotoCoreError) as error:
        refused = isinstance(error, ClientError)
        step = f" ({error.operation_name})" if refused else ""
        # Servers blame a wrong KMS key on whatever they like, the access key included.
        also = f" Or mend kms-key={place.kms_key}." if refused and place.kms_key else ""
        raise VaultError(f"Vault {place} cannot be used{step}: {aws.explain(error)}.{also}") from None
