"""Input files by URI, a local path or s3://: list and read what users bring (data, weights)."""

from pathlib import Path

from pyarrow import NativeFile, fs

from orchestrator.errors import StoreError


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system that holds ``uri`` and the path in it; credentials are ambient.

    Raises:
        StoreError: the URI has a scheme that is neither local nor s3://.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), local_path(uri)
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise StoreError(f"{uri} cannot be opened ({error}). Use a path, file:// or s3://.") from None
    return system, path


def local_path(path: str) -> str:
    """A local path made absolute, with ``~`` expanded."""
    return str(Path(path).expanduser().absolute())


def list_files(uri: str) -> list[str]:
    """Paths of all files below ``uri``, relative to it, sorted; empty if it does not exist."""
    system, path = resolve(uri)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    prefix = path.rstrip("/") + "/"
    return sorted(info.path.removeprefix(prefix) for info in found if info.is_file)


def open_file(uri: str) -> NativeFile:
    """One file for random access.

    Raises:
        FileNotFoundError: there is none.
    """
    system, path = resolve(uri)
    return system.open_input_file(path)


def read_file(uri: str) -> bytes:
    """The bytes of one file.

    Raises:
        FileNotFoundError: there is none.
    """
    with open_file(uri) as file:
        return bytes(file.read())
