"""The table of a shard: its rows as parquet, and read back held against its record.

Whoever can write in the store can write a record that fits; so neither is believed without the other.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import DamagedArtifact, DataError
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.parquet import MAX_TABLE_BYTES, read_exactly, told_as
from orchestrator.store.record import ArtifactRecord


def table_bytes(rows: Sequence[tuple[str, int, bytes]], recipe: Mapping[str, Any], address: str) -> bytes:
    """Rows of name, label and content (original bytes or pixels, as the recipe says) as parquet.

    Raises:
        DataError: they take more bytes than would be read again.
    """
    names, labels, contents = zip(*rows, strict=True) if rows else ((), (), ())
    if max(sum(map(len, contents)), _pixel_bytes(recipe, len(rows))) > MAX_TABLE_BYTES:
        raise DataError(
            f"The {len(rows)} images of {address} take more than {MAX_TABLE_BYTES} bytes. "
            "Set a smaller --shard-rows."
        )
    schema = _schema(recipe)
    columns = zip((names, labels, contents), schema.types, strict=True)
    table = pa.table([pa.array(values, kind) for values, kind in columns], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    return sink.getvalue()


def read_table(
    store: ArtifactStore, address: str, file: str, record: ArtifactRecord | None = None
) -> tuple[pa.Table, Mapping[str, Any]]:
    """The rows of a shard, and its recipe; its record is not read again where the caller has it.

    Raises:
        DamagedArtifact: it is not a shard, or not the one its record describes.
    """
    record = record or store.record(address)
    content, recipe = store.read(address, file, record), record.recipe
    with told_as(DamagedArtifact, f"{address} is not a shard", f"Delete {address} and rerun."):
        table = read_exactly(content, _schema(recipe))
        labels = {item[2] for item in recipe["items"]}
        if not labels.issuperset(table["label"].unique().to_pylist()):
            raise ValueError("it has labels that its recipe does not know")
        if table.num_rows != record.provenance["images"]:
            raise ValueError(f"it has {table.num_rows} images, and its record another number")
        if not recipe["crop_fraction"] > 0 or _pixel_bytes(recipe, table.num_rows) > MAX_TABLE_BYTES:
            raise ValueError("its recipe asks for images that cannot be")
    return table, recipe


def _schema(recipe: Mapping[str, Any]) -> pa.Schema:
    content = pa.binary() if recipe["encoded"] else pa.binary(_pixel_bytes(recipe, 1))
    return pa.schema([("image", pa.string()), ("label", pa.int32()), ("content", content)])


def _pixel_bytes(recipe: Mapping[str, Any], images: int) -> int:
    """Bytes of that many images of the recipe as pixels, which training and attack hold at once."""
    size = recipe["image_size"]
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"images of {size} pixels")
    return 3 * size * size * images
