"""StoreUri: where a store in a bucket is and how to use it; all of it that travels to workers."""

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from pyarrow import fs

from orchestrator import aws
from orchestrator.errors import StoreError

_OPTIONS = ("sse", "kms-key", "endpoint", "region", "cache-gb")
_SSE = {"": "", "s3": "AES256", "kms": "aws:kms"}


@dataclass(frozen=True, kw_only=True)
class StoreUri:
    """``s3://bucket/prefix?sse=s3|kms&kms-key=ID&endpoint=URL&region=R&cache-gb=20``; options are optional.

    Credentials never are in it: they are ambient where it is opened.
    """

    bucket: str
    prefix: str = ""
    """Without slashes at its ends; may be empty."""
    sse: str = ""
    """``s3`` or ``kms``: encryption the server has to confirm after every write; empty asks for none."""
    kms_key: str = ""
    """Id, alias or ARN of the KMS key; empty with ``sse=kms`` is the account's default key."""
    endpoint: str = ""
    """URL of a server that speaks S3; empty is ``AWS_ENDPOINT_URL``, or AWS."""
    region: str = ""
    cache_gb: float = 20.0
    """Gigabytes of payload kept on each node; 0 keeps none."""

    def __post_init__(self) -> None:
        if not self.bucket:
            raise StoreError("The store's URI names no bucket. Write it as s3://bucket/prefix.")
        if self.sse not in _SSE:
            raise StoreError(f"The store's option sse is {self.sse}. Use sse=s3 or sse=kms.")
        if self.kms_key and self.sse != "kms":
            raise StoreError("The store's option kms-key needs sse=kms beside it.")
        if not self.cache_gb >= 0.0:
            raise StoreError(
                f"The store's option cache-gb is {self.cache_gb:g}. Give 0 (no cache) or more."
            )

    @classmethod
    def parse(cls, uri: str) -> "StoreUri":
        """The parts of an ``s3://`` URI.

        Raises:
            StoreError: it has no bucket, credentials, or an option that does not exist or fit.
        """
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "@" in parts.netloc or "@" in options.get("endpoint", ""):
            # Not quoted: what stands before the @ may be a secret.
            raise StoreError(
                "The store's URI holds credentials. Take them out and give them as a profile, a role or "
                "AWS_* variables: the URI is shown in logs and reports."
            )
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown or parts.fragment:
            told = ", ".join(unknown) or "#"
            raise StoreError(f"The store's URI has no option {told}. There are {', '.join(_OPTIONS)}.")
        return cls(
            bucket=parts.netloc,
            prefix=parts.path.strip("/"),
            sse=options.get("sse", ""),
            kms_key=options.get("kms-key", ""),
            endpoint=options.get("endpoint", ""),
            region=options.get("region", ""),
            cache_gb=_gigabytes(options.get("cache-gb", "20")),
        )

    @property
    def text(self) -> str:
        """The URI; parsing it gives the same parts."""
        cache = "" if self.cache_gb == 20.0 else f"{self.cache_gb:g}"
        values = (self.sse, self.kms_key, self.endpoint, self.region, cache)
        given = {name: value for name, value in zip(_OPTIONS, values, strict=True) if value}
        return self.place + (f"?{urlencode(given, safe=':/')}" if given else "")

    @property
    def place(self) -> str:
        """``s3://bucket/prefix``, as people are told it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def encryption(self) -> dict[str, str]:
        """What a write asks the server for."""
        asked = {"ServerSideEncryption": _SSE[self.sse]} if self.sse else {}
        return asked | ({"SSEKMSKeyId": self.kms_key} if self.kms_key else {})

    def file_system(self) -> fs.FileSystem:
        """The whole service as pyarrow sees it, paths begin with the bucket; credentials are ambient.

        Raises:
            StoreError: no region is set, and AWS does not know that of the bucket.
        """
        endpoint = aws.endpoint_of("s3", self.endpoint)
        if endpoint:
            # Servers other than AWS refuse checksum trailers (411). pyarrow takes this from here alone.
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        return fs.S3FileSystem(
            region=self._region_of_bucket(endpoint),
            endpoint_override=endpoint or None,
            connect_timeout=10,
            request_timeout=30,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=5),
        )

    def _region_of_bucket(self, endpoint: str) -> str | None:
        ambient = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if self.region or ambient or endpoint:
            return self.region or ambient
        try:
            return str(fs.resolve_s3_region(self.bucket))
        except OSError as error:
            reason = str(error)[:160]
            raise StoreError(
                f"Bucket {self.bucket} is not found ({reason}). Mend it or set AWS_REGION."
            ) from None


def is_folder(uri: str) -> bool:
    """Whether a URI names a folder of this machine (or one mounted here) rather than a service."""
    return urlsplit(uri).scheme in ("", "file")


def below(uri: str, name: str) -> str:
    """The URI of a part of a store: ``name``, which may hold ``/``, is put at the end of its path."""
    if is_folder(uri):
        return f"{uri.rstrip('/')}/{name}"
    path, mark, options = uri.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def _gigabytes(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise StoreError(f"The store's option cache-gb is {text}. Give a number of gigabytes.") from None
