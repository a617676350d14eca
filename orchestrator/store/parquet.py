"""Parquet from elsewhere, read within limits: what a file unpacks to is known before it is unpacked.

A few kilobytes can hold a page that unpacks to 2 GiB, or name one long value a million times. The sizes in
the footer may be lies, for nothing checks them; those in the header of a page cannot, for the decoder obeys
them. So page headers are read first, and rows are decoded in batches that fit: no value is longer than the
page that holds it, whatever its encoding.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import OrchestratorError, first_line
from orchestrator.store.thrift import BINARY, I32, I64, REFUSED, CompactReader, Fields, Struct

MAX_ROWS = 2**24
"""Rows of a file. ImageNet-21k has 14 million; listing this many takes 2 GB."""
MAX_TABLE_ROWS = 2**22
"""Rows of a table that is held whole: the outcomes of 1,000 images on 4,000 targets."""
MAX_PAGE_BYTES = 2**30
"""A page, unpacked. Some writers count rows before bytes: 1,024 images of a megabyte make one page."""
MAX_TABLE_BYTES = 2**30
"""A table that is held whole, such as a shard: 7,000 images of 224x224 pixels."""
_BATCH_BYTES = 2**28
_BATCH_ROWS = 2**16
_NARROW_ROWS = 2**18
# A file of images has few columns, hardly nested, and a row group for every 100 images or more.
_MAX_DEPTH, _MAX_LIST, _MAX_FOOTER = 8, 2**15, 2**24
_FIRST_LOOK, _MAX_HEADER = 2**8, 2**20

# By the numbers of parquet.thrift: what is needed here, and every list, so that all are of their kind.
_SIZES, _GEOMETRY = {2: [I64], 3: [I64]}, {2: [I32]}
_COLUMN: Struct = {2: [I32], 3: [BINARY], 5: I64, 7: I64, 8: [{}], 9: I64, 11: I64, 13: [{}]}
_CHUNK: Struct = {3: {**_COLUMN, 16: _SIZES, 17: _GEOMETRY}, 8: REFUSED}
_FOOTER: Struct = {2: [{}], 4: [{1: [_CHUNK], 3: I64, 4: [{}]}], 5: [{}], 7: [{}], 8: REFUSED}
_PAGE_HEADER: Struct = {1: I32, 2: I32, 3: I32, 5: {1: I32}, 7: {1: I32}, 8: {1: I32}}


class _Chunk(NamedTuple):
    """A column of a row group, as the footer tells it."""

    values: int
    start: int
    size_bytes: int


class _Page(NamedTuple):
    """What a page's header claims, which the decoder holds it to."""

    unpacked_bytes: int
    packed_bytes: int
    values: int


@contextlib.contextmanager
def told_as(kind: type[OrchestratorError], what: str, remedy: str) -> Iterator[None]:
    """Tell whatever reading parquet raises as one error of ours: ``what (reason). remedy``.

    Arrow promises no set of errors for bytes that are not parquet. These bases are those that a million
    mutated files raised; an error of ours passes as it is.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise kind(f"{what} ({first_line(error)}). {remedy}") from None


class BoundedParquet:
    """One parquet file, opened within limits; nothing is unpacked yet.

    Columns that are ``folded`` come as dictionaries: rows that name one value a million times hold it once.

    Raises:
        ValueError, OSError: it is not parquet or exceeds a limit (see ``told_as``). So do the methods.
    """

    def __init__(self, file: pa.NativeFile, folded: Sequence[str] = ()) -> None:
        self._file = file
        groups = _read_footer(file)
        self.group_rows = [rows for rows, _ in groups]
        self._chunks = [chunks for _, chunks in groups]
        if min(self.group_rows, default=0) < 0 or sum(self.group_rows) > MAX_ROWS:
            raise ValueError(f"it claims {sum(self.group_rows)} rows, and {MAX_ROWS} are allowed")
        self._parquet = pq.ParquetFile(
            file,
            thrift_container_size_limit=_MAX_LIST,
            schema_depth_limit=_MAX_DEPTH,
            arrow_extensions_enabled=False,
            read_dictionary=list(folded),
        )
        self.schema: pa.Schema = self._parquet.schema_arrow
        # Of these no row takes more than eight bytes beside what pages hold.
        self._narrow = {field.name for field in self.schema if _is_narrow(field.type)}
        leaves = self._parquet.schema
        # By the schema, as the decoder finds them; what a column calls itself may be another name.
        self._paths: list[str] = [leaves.column(place).path for place in range(len(leaves))]

    def batches(self, columns: Sequence[str], groups: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """The rows of some row groups, in order, in batches of about 256 MiB at most.

        Args:
            columns: names of columns, or of a field in one (``image.bytes``).
            groups: numbers of row groups.
        """
        longest = max((page.unpacked_bytes for page in self._pages(columns, groups)), default=0)
        if longest > MAX_PAGE_BYTES:
            raise ValueError(f"a page unpacks to {longest} bytes, and {MAX_PAGE_BYTES} are allowed")
        loose = [name for name in columns if name not in self._narrow]
        rows = _BATCH_BYTES // (max(longest, 1) * len(loose)) if loose else _NARROW_ROWS
        yield from self._parquet.iter_batches(
            batch_size=min(max(rows, 1), _BATCH_ROWS if loose else _NARROW_ROWS),
            row_groups=list(groups),
            columns=list(columns),
            use_threads=False,
        )

    def checked(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows of some columns in batches, without nulls and in valid UTF-8; as many as are claimed."""
        found = 0
        for batch in self.batches(columns, range(len(self.group_rows))):
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                raise ValueError("it has empty places")
            found += batch.num_rows
            yield batch
        if found != sum(self.group_rows):
            raise ValueError(f"it claims {sum(self.group_rows)} rows and has {found}")

    def table(self, columns: Sequence[str], most_bytes: int) -> pa.Table:
        """All rows of some columns, held whole: of at most so many bytes, no nulls, valid UTF-8."""
        claimed, groups = sum(self.group_rows), range(len(self.group_rows))
        if claimed > MAX_TABLE_ROWS:
            raise ValueError(f"it claims {claimed} rows, and {MAX_TABLE_ROWS} are allowed")
        _check_size(sum(page.unpacked_bytes for page in self._pages(columns, groups)), most_bytes)
        kept: list[pa.RecordBatch] = []
        size_bytes = 0
        for batch in self.checked(columns):
            # Rows may exceed their pages: a dictionary holds a value once that many rows name.
            size_bytes += batch.nbytes
            _check_size(size_bytes, most_bytes)
            kept.append(batch)
        return pa.Table.from_batches(kept, pa.schema([self.schema.field(name) for name in columns]))

    def _pages(self, columns: Sequence[str], groups: Sequence[int]) -> Iterator[_Page]:
        """The pages of the leaves of some columns."""
        for group in groups:
            for path, chunk in zip(self._paths, self._chunks[group], strict=True):
                if any(path == name or path.startswith(f"{name}.") for name in columns):
                    yield from self._pages_of(chunk)

    def _pages_of(self, chunk: _Chunk) -> Iterator[_Page]:
        place, end, values = chunk.start, chunk.start + chunk.size_bytes, 0
        if not 0 <= place <= end <= self._file.size():
            raise ValueError("a column lies outside the file")
        while values < chunk.values and place < end:  # as the decoder goes, which stops where values do
            page, length = self._header(place, end)
            place += length + page.packed_bytes
            values += page.values
            if place > end:
                raise ValueError("a page is longer than its column")
            yield page

    def _header(self, place: int, end: int) -> tuple[_Page, int]:
        """The page header at a place of the file, and its length in bytes."""
        look = _FIRST_LOOK
        while True:
            content = self._file.read_at(min(look, end - place), place)
            try:
                return _page_header(content)
            except IndexError:  # cut short; statistics in a header may be long
                if look >= min(_MAX_HEADER, end - place):
                    raise ValueError("a page has no whole header") from None
                look *= 16


def read_exactly(content: bytes, schema: pa.Schema, most_bytes: int = MAX_TABLE_BYTES) -> pa.Table:
    """A table of ours, which has this schema and no other, and takes at most so many bytes unpacked.

    Raises:
        ValueError, OSError: anything else (see ``told_as``).
    """
    parquet = BoundedParquet(pa.BufferReader(content))
    _check_schema(parquet, schema)
    return parquet.table(schema.names, most_bytes)


def stream_exactly(content: bytes, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a file of ours, which has this schema and no other, a batch at a time; texts folded.

    Raises:
        ValueError, OSError: anything else (see ``told_as``); some batches may have been told by then.
    """
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    parquet = BoundedParquet(pa.BufferReader(content), texts)
    folded = pa.dictionary(pa.int32(), pa.string())
    _check_schema(parquet, pa.schema([(f.name, folded if f.name in texts else f.type) for f in schema]))
    return parquet.checked(columns)


def _check_schema(parquet: BoundedParquet, schema: pa.Schema) -> None:
    if not parquet.schema.equals(schema):
        raise ValueError("its columns are others")


def _is_narrow(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or (pa.types.is_primitive(kind) and kind.bit_width <= 64))


def _check_size(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise ValueError(f"it unpacks to {size_bytes} bytes or more, and {most_bytes} are allowed")


def _read_footer(file: pa.NativeFile) -> list[tuple[int, list[_Chunk]]]:
    """Of every row group, the number of rows and the columns."""
    size = file.size()
    tail = file.read_at(8, size - 8) if size > 8 else b""
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > min(size - 8, _MAX_FOOTER):
        raise ValueError("no footer")
    reader = CompactReader(file.read_at(length, size - 8 - length), _MAX_LIST)
    groups = reader.struct(_FOOTER)[4]
    return [(group[3], [_chunk(chunk[3]) for chunk in group[1]]) for group in groups]


def _chunk(told: Fields) -> _Chunk:
    start, dictionary = told[9], told.get(11, 0)
    return _Chunk(
        values=told[5],
        start=dictionary if 0 < dictionary < start else start,
        size_bytes=told[7],
    )


def _page_header(content: bytes) -> tuple[_Page, int]:
    """The page header that begins ``content``, and its length in bytes.

    Raises:
        IndexError: the content ends before the header does.
    """
    reader = CompactReader(content)
    fields = reader.struct(_PAGE_HEADER)
    of_rows = {0: 5, 3: 8}.get(fields[1])  # a DATA_PAGE, or a DATA_PAGE_V2; others hold no rows
    page = _Page(fields[2], fields[3], fields[of_rows][1] if of_rows else 0)
    if not all(0 <= number < 2**31 for number in page):
        raise ValueError("a page header without sizes")
    return page, reader.place
