"""Keys: the secret stays secret, the permutation is what docs/keys.md publishes, the vault is guarded."""

import copy
import hashlib
import itertools
import os
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import VaultError
from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.vault import FileVault, open_vault

COUNTING = SecretKey(bytes(range(32)))
ZERO = SecretKey(bytes(32))


def digest(permutation: tuple[int, ...]) -> str:
    return hashlib.sha256(b"".join(v.to_bytes(4, "little") for v in permutation)).hexdigest()


def test_permutations_are_the_published_test_vectors() -> None:
    assert COUNTING.key_id == "k-3d2a702b2e4c"
    assert ZERO.key_id == "k-10265d5b40f6"
    assert draw_permutation(COUNTING, 12) == (5, 4, 6, 8, 10, 9, 1, 11, 7, 2, 3, 0)
    assert draw_permutation(ZERO, 12) == (3, 6, 10, 1, 5, 11, 0, 7, 8, 2, 9, 4)
    assert (
        digest(draw_permutation(COUNTING, 48))
        == "e56af0c7d0ac47718b18dcbcaa3ef9ef02e0d0a2b315d91789b45d7d9e4f9750"
    )
    assert (
        digest(draw_permutation(COUNTING, 192))
        == "d6416fc2097eed6bddaec73ce2b3558eea4ee221309c5dfc28db17fbddbe07c3"
    )
    assert (
        digest(draw_permutation(COUNTING, 768))
        == "9666b076a6df8251560cd0acb7d4eeadb3edd69dfecae4e6cac582034ddea180"
    )


@given(st.binary(min_size=32, max_size=32), st.integers(1, 200))
def test_a_permutation_holds_every_value_once(secret: bytes, size: int) -> None:
    assert sorted(draw_permutation(SecretKey(secret), size)) == list(range(size))


def test_every_permutation_of_four_is_equally_likely() -> None:
    drawn = Counter(draw_permutation(SecretKey(number.to_bytes(32, "big")), 4) for number in range(24_000))
    assert len(drawn) == 24
    # χ² with 23 degrees of freedom exceeds 49.7 once in a thousand times; the keys are fixed.
    assert sum((drawn[p] - 1000) ** 2 / 1000 for p in itertools.permutations(range(4))) < 49.7


def test_neighbouring_keys_and_sizes_give_unrelated_permutations() -> None:
    flipped = SecretKey(bytes([1]) + bytes(31))
    same = sum(
        a == b for a, b in zip(draw_permutation(ZERO, 768), draw_permutation(flipped, 768), strict=True)
    )
    assert same < 10
    assert draw_permutation(ZERO, 13)[:12] != draw_permutation(ZERO, 12)


def test_a_key_shows_its_id_and_nothing_else() -> None:
    key = SecretKey.generate()
    shown = f"{key} {key!r} {key:>40} {[key]} {vars(type(key)).keys()}"
    assert key.key_id in shown
    assert key.reveal().hex() not in shown
    assert str(key.reveal()) not in shown


@pytest.mark.parametrize("ship", [pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_is_neither_pickled_nor_copied(ship) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        ship(SecretKey.generate())


def test_a_key_of_another_length_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="32 bytes, got 5") as refused:
        SecretKey(b"short")
    assert "short" not in str(refused.value)


def test_a_vault_keeps_its_keys_and_grows(vault: str) -> None:
    two = open_vault(vault).ensure("study", 2)
    four = open_vault(f"file://{vault}").ensure("study", 4)
    assert four[:2] == two
    assert len(set(four)) == 4
    assert open_vault(vault).ensure("other", 1)[0] not in four
    assert open_vault(vault).open("study", 3, four[3]).key_id == four[3]


def test_vault_files_are_for_their_owner_alone(vault: str) -> None:
    FileVault(Path(vault)).ensure("study", 1)
    file = Path(vault, "study", "00000.key")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert Path(vault).stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["00000.key"]


def test_writers_at_once_agree_on_one_key(vault: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: FileVault(Path(vault)).ensure("study", 3), range(16)))
    assert len(set(found)) == 1


def test_a_key_others_may_read_is_refused(vault: str) -> None:
    (key_id,) = FileVault(Path(vault)).ensure("study", 1)
    Path(vault, "study", "00000.key").chmod(0o644)
    with pytest.raises(VaultError, match="readable by others"):
        FileVault(Path(vault)).open("study", 0, key_id)


def test_a_vault_others_may_write_is_refused(vault: str) -> None:
    (key_id,) = FileVault(Path(vault)).ensure("study", 1)
    Path(vault).chmod(0o777)
    with pytest.raises(VaultError, match="written by others"):
        FileVault(Path(vault)).open("study", 0, key_id)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 32, b"zz" * 32, b"00" * 31])
def test_a_damaged_key_file_is_told_without_its_content(vault: str, content: bytes) -> None:
    (key_id,) = FileVault(Path(vault)).ensure("study", 1)
    Path(vault, "study", "00000.key").write_bytes(content)
    with pytest.raises(VaultError) as refused:
        FileVault(Path(vault)).open("study", 0, key_id)
    told = str(refused.value)
    assert "00000.key" in told or "Slot 0" in told
    assert not content or content.decode("latin1") not in told


def test_another_key_in_the_slot_is_refused(vault: str) -> None:
    FileVault(Path(vault)).ensure("study", 1)
    with pytest.raises(VaultError, match="expects k-000000000000"):
        FileVault(Path(vault)).open("study", 0, "k-000000000000")


def test_one_key_in_two_slots_is_refused(vault: str) -> None:
    FileVault(Path(vault)).ensure("study", 1)
    first, second = (Path(vault, "study", f"0000{slot}.key") for slot in (0, 1))
    os.link(first, second)
    with pytest.raises(VaultError, match="one key in two slots"):
        FileVault(Path(vault)).ensure("study", 2)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(VaultError, match="carrier-pigeon://"):
        open_vault("carrier-pigeon://loft")
