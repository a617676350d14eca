"""The search for keys where none may be: raw, as text, and as the permutation a key stands for."""

import base64
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.secret import SecretKey


def appearances(key: SecretKey) -> dict[str, bytes]:
    """How a key could appear in a file."""
    secret = key.reveal()
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base64": base64.b64encode(secret).rstrip(b"="),
        "base64 url": base64.urlsafe_b64encode(secret).rstrip(b"="),
    }
    start = draw_permutation(key, 3 * 8 * 8)[:10]
    for mark in (", ", ",", " "):
        found[f"permutation by {mark!r}"] = mark.join(map(str, start)).encode()
    for kind in (np.uint8, np.int16, np.int32, np.int64, np.float32):
        found[f"permutation in {kind.__name__}"] = np.array(start, kind).tobytes()
    return found


def leaks(root: Path, keys: list[SecretKey]) -> list[str]:
    """Files below ``root`` in which a key appears."""
    found = []
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found += leaks_in(str(path), path.read_bytes(), keys)
    return found


def leaks_in(name: str, content: bytes, keys: list[SecretKey]) -> list[str]:
    """The keys that appear in a file's content, and how; parquet is searched unpacked, too."""
    if name.endswith(".parquet"):
        content += b"".join(
            buffer.to_pybytes()
            for column in pq.read_table(pa.BufferReader(content)).columns
            for chunk in column.chunks
            for buffer in chunk.buffers()
            if buffer
        )
    forms = [(key.key_id, form, text) for key in keys for form, text in appearances(key).items()]
    return [f"{name}: {key_id} as {form}" for key_id, form, text in forms if text in content]


def study_keys(vault: Path, study: str = "digits") -> list[SecretKey]:
    """The keys a folder vault holds of a study."""
    files = sorted((vault / study).glob("*.key"))
    return [SecretKey(bytes.fromhex(file.read_text())) for file in files]
