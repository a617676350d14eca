"""Poisoned input never hurts: told in one sentence or left out; no crash, no hang, no memory blown up.

What users bring is poisoned as a stranger would; what lies in the store, with a record that fits it, as
one would who may write there. Whatever is not an error of ours fails a test by itself.
"""

import io
import json
import multiprocessing
import random
import resource
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import small_study
from jobs.proliferate import proliferate
from orchestrator.errors import DamagedArtifact, DataError, OrchestratorError, WeightsError
from orchestrator.models.backbone import Architecture, load_plain, load_whole, parse_weights
from orchestrator.models.lora import merge_adapter
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.command import main, parse
from orchestrator.pipeline.plain import import_plain
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.tally import tally
from orchestrator.shards.pixels import canonical_pixels, decode_image
from orchestrator.shards.shard import (
    IMAGES_FILE,
    Shard,
    image_count,
    read_encoded,
    read_pixels,
    write_shard,
)
from orchestrator.shards.sources import Item, open_source
from orchestrator.shards.table import table_bytes
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord, FileEntry
from orchestrator.training.checkpoint import CheckpointWriter, Progress, load_checkpoint
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import Scored
from orchestrator.transfer.worker import OUTCOMES_FILE

MEGABYTE, GIGABYTE = 2**20, 2**30
SMALL = Architecture(
    name="vit_tiny_patch16_224", image_size=16, classes=3, patch_size=8, width=12, depth=1, heads=3
)
BACKBONE = SMALL.build()
PIXELS = {"items": [["a", row, row % 3] for row in range(12)], "image_size": 4}
PIXELS |= {"crop_fraction": 1.0, "encoded": False}
ENCODED = PIXELS | {"encoded": True}
OUTCOMES = {"attack": "apgd", "norm": "linf", "epsilons": [0.5], "targets": {"plain": "0"}}


def told(surface: Callable[..., object], *given: object) -> str:
    """The one sentence a surface ends in, or nothing where it takes what it was given."""
    sentence = ""
    try:
        surface(*given)
    except OrchestratorError as error:
        sentence = str(error)
    assert "\n" not in sentence
    return sentence


def fuzzed(examples: int):
    """A test of many inputs; how long one takes is judged for all of them together."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


class Seeds(list[bytes]):
    """Valid files, to be poisoned; not printed with what fails."""

    def __repr__(self) -> str:
        return f"{len(self)} files"


@st.composite
def mutations(draw: st.DrawFn, seeds: Seeds) -> bytes:
    """A valid file with bits flipped, bytes set, copied, cut or spliced; as often in its last bytes."""
    chance = random.Random(draw(st.integers(0, 2**64)))
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        last = chance.choice((len(content), 400))
        place = max(0, len(content) - 1 - chance.randrange(last or 1))
        length, other = chance.randrange(1, 12), chance.choice(seeds)
        kind = chance.randrange(8)
        if kind < 4:
            bit = 1 << chance.randrange(8)
            content[place : place + 1] = bytes(byte ^ bit for byte in content[place : place + 1])
        elif kind < 6:
            content[place : place + length] = chance.choice((b"\xff" * length, b"", bytes(length)))
        elif kind == 6:
            content[place : place + length] = other[place : place + length]
        else:
            content[place:] = chance.choice((b"x", other[place:], content[place + length :] + b"x"))
    return bytes(content)


# -- valid files, to be poisoned ------------------------------------------------------------------


def picture(form: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (14, 17, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


PICTURES = [
    *(picture("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "1", "LA")),
    picture("PNG", "P", transparency=bytes(9), icc_profile=bytes(99)),
    *(picture("JPEG", mode, progressive=mode == "RGB") for mode in ("RGB", "L", "CMYK")),
    *(picture("WEBP", lossless=lossless) for lossless in (True, False)),
    *(picture("BMP", mode) for mode in ("RGB", "P", "1")),
]


def parquet(table: pa.Table, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def data_sets() -> list[bytes]:
    flat = pa.table({"image": PICTURES, "label": list(range(len(PICTURES)))})
    nested = pa.table({"image": [{"bytes": p, "path": None} for p in PICTURES], "label": flat["label"]})
    forms = [
        {"compression": codec, "data_page_version": version, "use_dictionary": version == "1.0"}
        for codec in ("zstd", "snappy", "gzip", "none")
        for version in ("1.0", "2.0")
    ]
    delta = {"column_encoding": {"image": "DELTA_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED"}}
    plain = parquet(flat, use_dictionary=False, **delta)
    return [plain, *(parquet(table, row_group_size=6, **f) for table in (flat, nested) for f in forms)]


def outcomes(**changed) -> pa.Table:
    values = {
        "source": "plain",
        "target": "plain",
        "method": "plain",
        "epsilon": 0.5,
        **OUTCOMES,
        **changed,
    }
    kinds = {field.name: pa.scalar(0).cast(field.type).as_py() for field in OUTCOME_SCHEMA}
    rows = [{name: values.get(name, none) for name, none in kinds.items()}] * 12
    return pa.Table.from_pylist(rows, OUTCOME_SCHEMA)


def shard_bytes(recipe) -> bytes:
    contents = PICTURES if recipe["encoded"] else [bytes([row] * 48) for row in range(12)]
    rows = [(f"n{row}", row % 3, content) for row, content in enumerate(contents[:12])]
    return table_bytes(rows, recipe, "shard")


def weights(**changed: torch.Tensor) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in BACKBONE.state_dict().items()}
    return safetensors.torch.save(tensors | changed, metadata={"form": "plain"})


# -- a store that others may write, and what reads it -----------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("poison")


def plant(root: Path, address: str, file: str, content: bytes, recipe, **provenance) -> ArtifactRecord:
    """Put an artifact there as one would who may write there: with a record that fits."""
    record = ArtifactRecord(recipe=recipe, files={file: FileEntry.of(content)}, provenance=provenance)
    (root / address).mkdir(parents=True, exist_ok=True)
    (root / address / file).write_bytes(content)
    (root / address / "record.json").write_bytes(record.to_json())
    return record


def read_shard(root: Path, content: bytes, recipe, images: object = 12) -> None:
    plant(root, "shards/train/00000", IMAGES_FILE, content, recipe, images=images)
    read_encoded(LocalStore(root), "shards/train/00000")
    batch = read_pixels(LocalStore(root), "shards/train/00000")
    assert set(batch.labels.tolist()) <= {0, 1, 2}


def count_outcomes(root: Path, content: bytes) -> None:
    address = "outcomes/apgd-linf-0.5/plain/00000/0"
    record = plant(root, address, OUTCOMES_FILE, content, OUTCOMES, seconds=1.0)
    tally(LocalStore(root), [Scored(address, record, frozenset({"plain"}))])


MODEL = ModelRef(name="plain", method="plain", recipe={"kind": "plain"})


def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    layer = torch.nn.Linear(3, 2)
    return layer, torch.optim.AdamW(layer.parameters())


def checkpoint(root: Path) -> bytes:
    layer, optimizer = network()
    _step(layer, optimizer)
    with CheckpointWriter(LocalStore(root), MODEL) as writer:
        writer.save(layer, optimizer, Progress(epochs_done=1, seconds=1.0))
    return LocalStore(root).read("checkpoints/plain/00001", "state.safetensors")


def _step(layer: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def resume(root: Path, content: bytes, **provenance) -> None:
    layer, optimizer = network()
    recipe = {**MODEL.recipe, "epochs_done": 1, "patches": "unshuffled"}
    plant(root, "checkpoints/plain/00001", "state.safetensors", content, recipe, **provenance)
    load_checkpoint(LocalStore(root), MODEL, layer, optimizer, 1)
    _step(layer, optimizer)


def read_data(folder: Path, images: int = 20) -> int:
    """How many of the first images are pictures."""
    source, good = open_source(str(folder)), 0
    for raw in islice(source.read(source.items("train")), images):
        good += not told(lambda raw: canonical_pixels(decode_image(raw.name, raw.encoded), 16, 1.0), raw)
    return good


# -- thousands of mutated files ---------------------------------------------------------------------


@fuzzed(400)
@given(content=mutations(Seeds(data_sets())))
def test_a_poisoned_data_set_is_told_or_its_bad_images_are(place: Path, content: bytes) -> None:
    (place / "data").mkdir(exist_ok=True)
    (place / "data" / "train.parquet").write_bytes(content)
    told(read_data, place / "data")


@fuzzed(300)
@given(content=mutations(Seeds([shard_bytes(PIXELS)])))
def test_a_poisoned_shard_is_damage(place: Path, content: bytes) -> None:
    told(read_shard, place, content, PIXELS)


@fuzzed(200)
@given(content=mutations(Seeds([shard_bytes(ENCODED)])))
def test_a_poisoned_shard_of_encoded_images_is_damage(place: Path, content: bytes) -> None:
    told(read_shard, place, content, ENCODED)


@fuzzed(300)
@given(content=mutations(Seeds([parquet(outcomes(), compression="zstd")])))
def test_poisoned_outcomes_are_damage(place: Path, content: bytes) -> None:
    told(count_outcomes, place, content)


def with_sums_mended(content: bytes) -> bytes:
    """A PNG whose checksums fit again, so that what lies behind them is reached."""
    mended, place = content[:8], 8
    while content[:4] == b"\x89PNG" and place + 12 <= len(content):
        body = content[place + 4 : place + 8 + int.from_bytes(content[place : place + 4], "big")]
        mended += content[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 8 + len(body)
    return mended if content[:4] == b"\x89PNG" else content


@fuzzed(1000)
@given(content=mutations(Seeds(PICTURES)), mended=st.booleans())
def test_a_poisoned_image_is_a_picture_or_told(content: bytes, mended: bool) -> None:
    content = with_sums_mended(content) if mended else content
    told(lambda: canonical_pixels(decode_image("x", content), 16, 1.0))


VALUES = st.sampled_from([-1, 0, 1, 12, 2**31, 2**60, 2**63, 2**64, 0.5, None, "x", [], {}, True])
FIELDS = st.one_of(
    st.tuples(
        st.just("dtype"), st.sampled_from(["F64", "F16", "I8", "U64", "C64", "F4", "F8_E4M3", "X", 3])
    ),
    st.tuples(st.sampled_from(["shape", "data_offsets"]), st.lists(VALUES, max_size=4) | VALUES),
)


@st.composite
def headers(draw: st.DrawFn, seeds: Seeds) -> bytes:
    """A safetensors file whose header lies."""
    (seed,) = seeds
    end = 8 + int.from_bytes(seed[:8], "little")
    header = json.loads(seed[8:end])
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(header)))
        field, value = draw(FIELDS)
        header[name] = draw(VALUES) if draw(st.integers(0, 9)) == 0 else {**header[name], field: value}
        if not isinstance(header[name], dict):
            break
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + seed[end:]


@fuzzed(1000)
@given(content=mutations(Seeds([weights()])) | headers(Seeds([weights()])))
def test_poisoned_weights_are_told(content: bytes) -> None:
    told(lambda: load_plain(BACKBONE, parse_weights(content, "weights"), "weights"))


def test_a_poisoned_checkpoint_is_told(place: Path) -> None:
    seed = checkpoint(place / "checkpoints")

    @fuzzed(400)
    @given(content=mutations(Seeds([seed])) | headers(Seeds([seed])))
    def poisoned(content: bytes) -> None:
        told(resume, place, content)
        told(lambda: resume(place, content, seconds=1.0))

    poisoned()
    resume(place, seed, seconds=1.0)  # whole, it is taken


@fuzzed(1000)
@given(content=mutations(Seeds([ArtifactRecord(recipe=PIXELS, files={"f": FileEntry.of(b"")}).to_json()])))
def test_a_poisoned_record_is_damage(content: bytes) -> None:
    told(ArtifactRecord.from_json, content, "shards/train/00000")


# -- what a clever stranger would write -------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"recipe":' * 100_000,
        b"9" * 100_000,
        b'{"recipe":{"x":NaN},"files":{},"parents":{},"provenance":{},"format":1,"digest":""}',
        b'{"recipe":{"x":' + b"9" * 9999 + b'},"files":{},"parents":{},"provenance":{},"format":1}',
        b'{"recipe":{"\xff":1}}',
        b'{"recipe":{},"recipe":[],"files":{},"parents":{},"provenance":{},"format":1,"digest":""}',
    ],
)
def test_a_record_that_is_a_bomb_is_damage(content: bytes) -> None:
    with pytest.raises(DamagedArtifact, match=r"record\.json"):
        ArtifactRecord.from_json(content, "a/b")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff" * 8 + b"{}", "not a safetensors file"),
        ((2**40).to_bytes(8, "little") + b"{}", "not a safetensors file"),
        (safetensors.torch.save({"w": torch.tensor([1.0, float("nan")])}), "no finite numbers"),
        (safetensors.torch.save({"w": torch.tensor([float("inf")])}), "no finite numbers"),
        (safetensors.torch.save({"w": torch.zeros(2, dtype=torch.complex64)}), "no finite numbers"),
        (safetensors.torch.save({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}), "no finite numbers"),
        (weights(**{"norm.weight": torch.zeros(7)}), r"norm.weight \(7,\) against \(12,\)"),
        (weights(surplus=torch.zeros(1)), "surplus unknown"),
    ],
)
def test_weights_that_lie_are_told(content: bytes, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence):
        load_plain(SMALL.build(), parse_weights(content, "weights"), "weights")


@pytest.mark.parametrize(
    "change",
    [
        {"model.weight": torch.zeros(3, 2)},
        {"model.weight": torch.zeros(2, 3, dtype=torch.int64)},
        {"optimizer.0.exp_avg": torch.zeros(1)},
        {"optimizer.1.step": torch.zeros((), dtype=torch.int64)},
        {"optimizer.0.step": torch.tensor(-1.0)},
        {"optimizer.9.step": torch.zeros(())},
        {"optimizer.0.exp_avg": None},
    ],
)
def test_a_checkpoint_of_another_network_is_damage(place: Path, change) -> None:
    state = safetensors.torch.load(checkpoint(place / "checkpoints")) | change
    content = safetensors.torch.save({name: t for name, t in state.items() if t is not None})
    with pytest.raises(DamagedArtifact, match="not a checkpoint of this model"):
        resume(place, content, seconds=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 10**9},
        {"image_size": "4"},
        {"image_size": -4},
        {"crop_fraction": 0},
        {"crop_fraction": None},
        {"items": 7},
        {"items": [["a", 0, 0]]},
        {"encoded": True},
    ],
)
def test_a_shard_whose_recipe_lies_is_damage(place: Path, change) -> None:
    content = shard_bytes(PIXELS)
    read_shard(place, content, PIXELS)
    with pytest.raises(DamagedArtifact, match="is not a shard"):
        read_shard(place, content, PIXELS | change)


def test_a_shard_of_another_length_than_recorded_is_damage(place: Path) -> None:
    with pytest.raises(DamagedArtifact, match="12 images, and its record another number"):
        read_shard(place, shard_bytes(PIXELS), PIXELS, 10**12)


@pytest.mark.parametrize(
    "change",
    [
        {"attack": "another"},
        {"epsilon": float("nan")},
        {"source": "k-000000000000"},
        {"target": "k-000000000000"},
        {"label": None},
        {"source": None},
    ],
)
def test_outcomes_of_another_unit_are_damage(place: Path, change) -> None:
    count_outcomes(place, parquet(outcomes()))
    with pytest.raises(DamagedArtifact, match="is not outcomes"):
        count_outcomes(place, parquet(outcomes(**change)))


def test_text_that_is_not_utf8_is_damage(place: Path) -> None:
    bad = pa.array([b"\xff\xfe"] * 12).view(pa.string())
    poisoned = outcomes().set_column(0, OUTCOME_SCHEMA.field(0), bad)
    with pytest.raises(DamagedArtifact, match="UTF"):
        count_outcomes(place, parquet(poisoned))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image": [1, 2], "label": [0, 1]}, "images are int64, not bytes"),
        ({"image": ["a", "b"], "label": [0, 1]}, "images are string, not bytes"),
        ({"image": [[b"a"], [b"b"]], "label": [0, 1]}, "not bytes"),
        ({"image": [{"path": "a"}], "label": [0]}, "bytes"),
        ({"image": [b"a", b"b"], "label": [0, None]}, "not whole numbers"),
        ({"image": [b"a", b"b"], "label": [[0], [1]]}, "not whole numbers"),
    ],
)
def test_a_data_set_of_other_columns_is_told(tmp_path: Path, columns, sentence: str) -> None:
    (tmp_path / "train.parquet").write_bytes(parquet(pa.table(columns)))
    with pytest.raises(DataError, match=sentence):
        read_data(tmp_path)


def test_poisoned_images_are_left_out_and_named(tmp_path: Path, store: LocalStore) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    with (folder / "hole.png").open("wb") as file:
        file.truncate(2**40)  # a terabyte that takes no space
    Image.new("L", (1, 300_000)).save(folder / "strip.png")
    (folder / "gif.png").write_bytes(picture("GIF"))
    (folder / "fine.png").write_bytes(PICTURES[0])
    names = ("fine", "gif", "hole", "strip")
    items = tuple(Item(f"train/a/{name}.png", 0, 0) for name in names)
    recipe = {"image_size": 16, "crop_fraction": 1.0, "encoded": False}
    shard = Shard(split="train", index=0, data=str(tmp_path), items=items, **recipe)
    assert write_shard(store, shard) == tuple(item.file for item in items[1:])


def test_an_image_that_is_gone_is_told_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.png").write_bytes(PICTURES[0])
    source = open_source(str(tmp_path))
    (tmp_path / "train" / "a" / "1.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(source.read(source.items("train")))


def adapter(**changed) -> dict[str, torch.Tensor]:
    own = SMALL.build().state_dict()
    names = ("patch_embed.proj.weight", "patch_embed.proj.bias", "head.weight", "head.bias")
    factors = {"down": torch.ones(2, 12), "up": torch.ones(36, 2)}
    layer = {f"blocks.0.attn.qkv.{part}": factor for part, factor in factors.items()}
    state = {name: own[name] for name in names} | layer | changed
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    "change",
    [
        {"blocks.0.attn.qkv.up": None},
        {"blocks.0.attn.qkv.down": None},
        {"blocks.0.attn.qkv.up": torch.ones(36, 3)},
        {"blocks.7.attn.qkv.down": torch.ones(2, 12)},
        {"head.weight": torch.ones(4, 12)},
        {"head.bias": None},
        {"surplus": torch.ones(1)},
    ],
)
def test_an_adapter_of_another_model_is_told(change) -> None:
    merge_adapter(SMALL.build(), adapter(), "adapter")
    with pytest.raises(WeightsError, match="no adapter of this model"):
        merge_adapter(SMALL.build(), adapter(**change), "adapter")


def test_stored_weights_without_a_head_are_told_and_not_made_up() -> None:
    state = {name: tensor for name, tensor in SMALL.build().state_dict().items() if name != "head.bias"}
    with pytest.raises(WeightsError, match=r"no head\.bias"):
        load_whole(SMALL.build(), state, "models/plain")


@pytest.mark.parametrize("images", [10**12, -1, "3", None])
def test_a_record_that_counts_wrongly_is_damage(place: Path, images: object) -> None:
    plant(place, "shards/train/00000", IMAGES_FILE, b"", PIXELS, images=images)
    with pytest.raises(DamagedArtifact, match="how many images"):
        image_count(LocalStore(place), "shards/train/00000")


def test_weights_larger_than_the_model_are_told_unread(tmp_path: Path) -> None:
    with (tmp_path / "hole.safetensors").open("wb") as file:
        file.truncate(2**40)
    study, said = small_study(weights=str(tmp_path / "hole.safetensors")), PlainReporter(print)
    with pytest.raises(WeightsError, match="1099511627776 bytes"):
        import_plain(study, MODEL, LocalStore(tmp_path), said)


# -- bombs, in a process that may take one gigabyte -------------------------------------------------


def _one_gigabyte_more() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@pytest.fixture(scope="module")
def bounded() -> Iterator[Callable[..., object]]:
    """Calls a function in a process of its own: what crashes it, or takes more, fails the test."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_one_gigabyte_more) as process:
        yield lambda *call: process.submit(*call).result(timeout=60)


class I32(int):
    """A 32-bit number of thrift; other numbers are written with 64."""


def varint(number: int) -> bytes:
    head = bytes([number & 127 | (128 if number > 127 else 0)])
    return head + varint(number >> 7) if number > 127 else head


def thrift(value) -> tuple[int, bytes]:
    """A value in thrift's compact protocol: its kind, and its bytes."""
    if isinstance(value, int):
        return 5 if isinstance(value, I32) else 6, varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if isinstance(value, bytes):
        return 8, varint(len(value)) + value
    if isinstance(value, list):
        parts = [thrift(part) for part in value]
        return 9, bytes([0xF0 | parts[0][0]]) + varint(len(parts)) + b"".join(body for _, body in parts)
    written, last = b"", 0
    for number, part in value.items():
        kind, body = thrift(part)
        written, last = written + bytes([(number - last) << 4 | kind]) + body, number
    return 12, written + b"\0"


def zeros(unpacked: int) -> bytes:
    """A zstd frame of that many zeros, a multiple of 128 KiB: four bytes for every 128 KiB."""
    count = unpacked // 2**17
    # A block's header: from above its size, its kind (1: one byte, many times), whether it is the last.
    blocks = [(2**20 | 2 | (left == 0)).to_bytes(3, "little") + b"\0" for left in reversed(range(count))]
    return b"\x28\xb5\x2f\xfd\xe0" + unpacked.to_bytes(8, "little") + b"".join(blocks)


def forged(*, unpacked: int = 2**17, rows: int = 1, nested: int = 0, group: int = 0, column=None) -> bytes:
    """A parquet file of images and labels that are zeros, as no library would write it.

    Args:
        unpacked: bytes that each page unpacks to; the footer says 8.
        rows: of every page.
        nested: structs around a third column that is not there.
        group: rows that the footer claims; as many as the pages have where 0.
        column: more that the footer tells of every column, by its numbers.
    """
    packed = zeros(unpacked)
    page = {1: I32(0), 2: I32(unpacked), 3: I32(len(packed))}
    page |= {5: {1: I32(rows), 2: I32(0), 3: I32(3), 4: I32(3)}}
    body = thrift(page)[1] + packed
    schema = [{4: b"schema", 5: I32(2 + (nested > 0))}]
    columns = []
    for place, (name, kind) in enumerate(((b"image", 6), (b"label", 2))):
        schema.append({1: I32(kind), 3: I32(0), 4: name})
        told = {1: I32(kind), 2: [I32(0)], 3: [b"other"], 4: I32(6), 5: rows, 6: 8, 7: len(body)}
        told |= {9: 4 + place * len(body), **(column or {})}
        columns.append({2: 0, 3: told})
    schema += [{3: I32(0), 4: b"deeper", 5: I32(1)}] * nested
    groups = [{1: columns, 2: 8, 3: group or rows}]
    footer = thrift({1: I32(2), 2: schema, 3: group or rows, 4: groups})[1]
    return b"PAR1" + body * 2 + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def repeated(long: int, rows: int) -> pa.Array:
    """One long value that many rows name, and a file holds once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * long]))


def test_a_forged_file_without_a_lie_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(forged())
    assert read_data(tmp_path) == 0  # an empty image, which is none
    assert pq.read_table(tmp_path / "train.parquet").to_pylist() == [{"image": b"", "label": 0}]


def _as_data(content: bytes, folder: Path) -> str:
    (folder / "train.parquet").write_bytes(content)
    return told(read_data, folder)


@pytest.mark.parametrize(
    ("lies", "sentence"),
    [
        ({"unpacked": 2 * GIGABYTE - 2**17}, "a page unpacks to 2147352576 bytes"),
        ({"rows": 2**31 - 1}, "claims 2147483647 rows"),
        ({"group": 2**62}, "claims 4611686018427387904 rows"),
        ({"nested": 1000}, "too deeply nested"),
        ({"nested": 2**16}, "list of 65539 elements"),
        ({"column": {16: {2: [1, 2, 3], 3: [1, 2, 3]}}}, "histogram"),  # ended the process, once
    ],
)
def test_a_parquet_bomb_is_told(bounded, tmp_path: Path, lies, sentence: str) -> None:
    assert sentence in bounded(_as_data, forged(**lies), tmp_path)


def _as_arrow_would(content: bytes) -> str:
    try:
        pq.read_table(pa.BufferReader(content))
    except MemoryError:
        return "no memory"
    return "read"


def test_the_bomb_is_one(bounded) -> None:
    content = forged(unpacked=2 * GIGABYTE - 2**17)
    assert len(content) < MEGABYTE
    assert bounded(_as_arrow_would, content) == "no memory"


def test_one_value_named_by_a_million_rows_is_read_image_by_image(bounded, tmp_path: Path) -> None:
    images = repeated(MEGABYTE, 10**6).cast(pa.dictionary(pa.int32(), pa.binary()))
    content = parquet(pa.table({"image": images, "label": np.zeros(10**6, int)}), compression="zstd")
    assert len(content) < MEGABYTE
    assert bounded(_as_data, content, tmp_path) == ""


def _as_outcomes(content: bytes, root: Path) -> str:
    return told(count_outcomes, root, content)


def test_outcomes_that_name_one_value_a_million_times_are_counted_row_by_row(bounded, place: Path) -> None:
    table = pa.concat_tables([outcomes()] * 1000)
    table = table.set_column(0, "image", repeated(MEGABYTE, len(table)))
    content = parquet(table, compression="zstd", store_schema=False)
    assert len(content) < MEGABYTE
    assert bounded(_as_outcomes, content, place) == ""


def bomb(form: str) -> bytes:
    """Images of a few kilobytes that unpack to hundreds of megabytes, or take minutes."""
    file = io.BytesIO()
    if form == "wide":
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
    elif form == "webp":
        Image.new("L", (8_300, 8_300)).save(file, "WEBP", lossless=True)
    elif form == "profile":
        Image.new("L", (8, 8)).save(file, "PNG", icc_profile=bytes(256 * MEGABYTE))
    elif form == "scans":
        Image.new("RGB", (512, 512)).save(file, "JPEG", progressive=True)
        scan = file.getvalue()[file.getvalue().rfind(b"\xff\xda") : -2]
        return file.getvalue()[:-2] + scan * 5000 + b"\xff\xd9"
    else:
        Image.new("L", (1, 20_000_000)).save(file, "PNG")
    return file.getvalue()


def _as_picture(content: bytes) -> str:
    return told(lambda: canonical_pixels(decode_image("bomb", content), 224, 1.0))


@pytest.mark.parametrize("form", ["wide", "webp", "profile", "scans", "strip"])
def test_an_image_bomb_is_told(bounded, form: str) -> None:
    content = bomb(form)
    assert len(content) < MEGABYTE
    assert bounded(_as_picture, content)


# -- what a person sees --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--data", "--weights"])
def test_the_job_says_one_sentence_and_ends_with_status_2(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "train.parquet").write_bytes(forged(unpacked=2 * GIGABYTE - 2**17))
    poisoned = tmp_path if option == "--data" else tmp_path / "train.parquet"
    where = ["--store", str(tmp_path / "store"), "--vault", str(tmp_path / "vault"), "--local"]
    monkeypatch.setattr("sys.argv", ["proliferate", option, str(poisoned), *where])
    with pytest.raises(SystemExit) as ended:
        main(proliferate, parse)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
