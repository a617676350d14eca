"""Input files by URI, a local path or s3://: list and read what users bring (data, weights)."""

from pathlib import Path

from pyarrow import NativeFile, fs

from orchestrator.errors import StoreError
from orchestrator.store.uri import StoreUri


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system that holds ``uri`` and the path in it; credentials are ambient.

    Raises:
        StoreError: the URI has a scheme that is neither local nor s3://, or names no bucket.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), local_path(uri)
    if uri.startswith("s3://"):
        # Not parsed as a store's URI: the name of an input file may hold a question mark.
        bucket, _, path = uri.removeprefix("s3://").partition("/")
        return StoreUri(bucket=bucket).file_system(), f"{bucket}/{path}"
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise StoreError(f"{uri} cannot be opened ({error}). Use a path, file:// or s3://.") from None
    return system, path


def local_path(path: str) -> str:
    """A local path made absolute, with ``~`` expanded."""
    return str(Path(path).expanduser().absolute())


def list_files(uri: str) -> list[str]:
    """Paths of all files below ``uri``, relative to it, sorted; empty if it does not exist.

    Raises:
        StoreError: the bucket does not exist, which S3 would show as one without files.
        OSError: the place cannot be reached or listed.
    """
    system, path = resolve(uri)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    bucket = path.partition("/")[0]
    if not found and uri.startswith("s3://") and not _exists(system, bucket):
        raise StoreError(f"{uri} cannot be listed: bucket {bucket} does not exist. Mend the URI.")
    prefix = path.rstrip("/") + "/"
    return sorted(info.path.removeprefix(prefix) for info in found if info.is_file)


def _exists(system: fs.FileSystem, path: str) -> bool:
    found: bool = system.get_file_info(path).type != fs.FileType.NotFound
    return found


def open_file(uri: str) -> NativeFile:
    """One file for random access.

    Raises:
        FileNotFoundError: there is none; another OSError says why it cannot be read.
    """
    system, path = resolve(uri)
    return system.open_input_file(path)
