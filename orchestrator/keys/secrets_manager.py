"""SecretsManagerVault: one secret a key in AWS Secrets Manager, which encrypts, audits and restores."""

import functools
from typing import Any

from botocore.exceptions import ClientError

from orchestrator import aws
from orchestrator.errors import VaultError
from orchestrator.keys.remote import THREADS, ask, connect
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.slots import SlotVault, read_key, write_key
from orchestrator.keys.vault_uri import VaultUri


class SecretsManagerVault(SlotVault):
    """``aws-sm://prefix``: secret ``{prefix}/{study}/{slot}`` holds 64 hex digits.

    Secrets are never listed: reading and creating by name need no right to see other secrets' names.
    """

    threads = THREADS

    def __init__(self, place: VaultUri) -> None:
        self.place = place
        self.uri = str(place)

    @property
    def _client(self) -> Any:
        return connect("secretsmanager", self.place)

    def _name(self, study: str, slot: int) -> str:
        return "/".join(filter(None, (self.place.root, self.place.prefix, study, f"{slot:05d}")))

    def _fill(self, study: str, slot: int) -> None:
        ask(self.place, functools.partial(self._create, self._name(study, slot)))

    def _create(self, name: str) -> None:
        encryption = {"KmsKeyId": self.place.kms_key} if self.place.kms_key else {}
        try:
            text = write_key(SecretKey.generate())
            self._client.create_secret(Name=name, SecretString=text, **encryption)
        except ClientError as error:
            self._refuse_deleted(error, name)
            # Somebody has made it; we ourselves, where the answer to an earlier try was lost.
            if aws.code(error) != "ResourceExistsException":
                raise

    def _look(self, study: str, slot: int) -> SecretKey | None:
        name = self._name(study, slot)
        text = ask(self.place, functools.partial(self._get, name))
        return None if text is None else read_key(text, f"Secret {name} of vault {self.uri}")

    def _get(self, name: str) -> str | None:
        """A secret's text, empty where it is binary; None where there is none."""
        try:
            return str(self._client.get_secret_value(SecretId=name).get("SecretString", ""))
        except ClientError as error:
            self._refuse_deleted(error, name)
            if aws.code(error) == "ResourceNotFoundException":
                return None
            raise

    def _refuse_deleted(self, error: ClientError, name: str) -> None:
        """Say so where a secret is scheduled for deletion; the service calls that an invalid request."""
        if aws.code(error) == "InvalidRequestException" and "delet" in str(error):
            raise VaultError(
                f"Secret {name} of vault {self.uri} is scheduled for deletion. Restore it "
                f"(aws secretsmanager restore-secret --secret-id {name}), or name another --vault."
            ) from None
