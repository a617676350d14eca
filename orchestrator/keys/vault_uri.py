"""VaultUri: the parts of a remote vault's URI, checked; credentials have no place in it."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from orchestrator.errors import VaultError

_OPTIONS = {"kms-key": "kms_key", "region": "region", "endpoint": "endpoint"}


@dataclass(frozen=True, kw_only=True)
class VaultUri:
    """``{scheme}://{root}/{prefix}?kms-key=ID&region=R&endpoint=URL``; every option may be left out."""

    scheme: str
    root: str
    """The first part of the place: a bucket, or the first part of a secret's name."""
    prefix: str = ""
    """The rest of the place, without slashes at its ends."""
    kms_key: str = ""
    """Id, ARN or alias of the KMS key that encrypts; empty is the service's own."""
    region: str = ""
    """Empty is the ambient one."""
    endpoint: str = ""
    """Where the service listens; empty is AWS, or the ambient ``AWS_ENDPOINT_URL``."""

    @classmethod
    def parse(cls, uri: str) -> "VaultUri":
        """The parts of a URI.

        Raises:
            VaultError: it names no place, has an option nobody knows, or carries credentials; what it
                carries is not quoted.
        """
        parts = urlsplit(uri)
        options = parse_qsl(parts.query, keep_blank_values=True)
        if not parts.netloc:
            raise VaultError(f"A vault at {parts.scheme}:// needs a place: {parts.scheme}://name/prefix.")
        if "@" in parts.netloc or any("@" in urlsplit(value).netloc for _, value in options):
            raise VaultError(
                f"A vault's URI ({parts.scheme}://) carries credentials: it is logged and sent to workers. "
                "Take them out, and set a profile, a role or AWS_ACCESS_KEY_ID."
            )
        unknown = [name for name, _ in options if name not in _OPTIONS]
        if unknown or parts.fragment or len(dict(options)) != len(options):
            told = f"no option {unknown[0]!r}" if unknown else "no fragment, and each option once"
            raise VaultError(
                f"A vault at {parts.scheme}://{parts.netloc} takes {told} (known: {', '.join(_OPTIONS)})."
            )
        return cls(
            scheme=parts.scheme,
            root=parts.netloc,
            prefix=parts.path.strip("/"),
            **{_OPTIONS[name]: value for name, value in options},
        )

    def __str__(self) -> str:
        place = f"{self.scheme}://{self.root}" + (f"/{self.prefix}" if self.prefix else "")
        options = {name: getattr(self, field) for name, field in _OPTIONS.items() if getattr(self, field)}
        return f"{place}?{urlencode(options, safe=':/')}" if options else place
