"""Keys: the secret stays secret, the permutation is the published one, a sealed box stays shut."""

import copy
import hashlib
import itertools
import pickle
from collections import Counter

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import VaultError
from orchestrator.keys.bits import draw_bits
from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.sealing import BOX_BYTES, Envelope, seal
from orchestrator.keys.secret import SecretKey

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


def test_bits_and_tables_are_the_published_test_vectors() -> None:
    for key, bits in ((COUNTING, "111100100111"), (ZERO, "011001001011")):
        assert draw_bits(key, 12) == tuple(bit == "1" for bit in bits)
    assert (
        hashlib.sha256(bytes(draw_bits(COUNTING, 192))).hexdigest()
        == "a6cc2d4d82cf2cec4b672b8f4632d530a613fcb916b3f7403d752b3f58552b0e"
    )
    assert draw_permutation(COUNTING, 256)[:12] == (218, 167, 123, 142, 127, 4, 134, 44, 21, 231, 99, 153)
    assert draw_permutation(ZERO, 256)[:12] == (187, 174, 33, 143, 110, 181, 22, 2, 46, 40, 202, 81)
    assert (
        digest(draw_permutation(COUNTING, 256))
        == "72a67f6ba95a7bde39316596ad5d3cf44679a7692ce1be8d23207bb858ac9d69"
    )
    # An implementation of its own, by arithmetic on one long number.
    seed = b"multikey-orchestrator/bits/v1\x00" + (12).to_bytes(8, "little") + COUNTING.reveal()
    number = int.from_bytes(hashlib.shake_256(seed).digest(2), "little")
    assert draw_bits(COUNTING, 12) == tuple(bool(number >> place & 1) for place in range(12))
    with pytest.raises(ValueError, match="got size 0"):
        draw_bits(ZERO, 0)


def test_bits_are_fair_and_do_not_know_each_other() -> None:
    drawn = Counter(draw_bits(SecretKey(number.to_bytes(32, "big")), 3) for number in range(8_000))
    # χ² with 7 degrees of freedom exceeds 24.3 once in a thousand times; the keys are fixed.
    assert (
        sum((drawn[bits] - 1000) ** 2 / 1000 for bits in itertools.product((False, True), repeat=3)) < 24.3
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


requests = st.builds(lambda secret: (SecretKey(secret), Envelope()), st.binary(min_size=32, max_size=32))


@given(requests)
def test_a_sealed_key_opens_for_the_envelope_that_asked(request) -> None:
    key, envelope = request
    box = seal(key, envelope.public)
    assert len(box) == BOX_BYTES
    assert envelope.unseal(box, key.key_id) == key
    # What travels holds neither the key nor a part of it that could be searched for.
    assert not any(key.reveal()[at : at + 8] in box + envelope.public for at in range(0, 32, 8))
    assert seal(key, envelope.public) != box


@given(requests, st.integers(0, BOX_BYTES - 1), st.integers(0, 7))
def test_a_box_with_one_bit_changed_does_not_open(request, place: int, bit: int) -> None:
    key, envelope = request
    box = bytearray(seal(key, envelope.public))
    box[place] ^= 1 << bit
    refused(envelope, bytes(box), key.key_id, key)


@given(requests, st.integers(0, BOX_BYTES - 1), st.binary(max_size=40))
def test_a_box_cut_short_or_grown_does_not_open(request, length: int, more: bytes) -> None:
    key, envelope = request
    box = seal(key, envelope.public)
    refused(envelope, box[:length], key.key_id, key)
    refused(envelope, box + b"\0" + more, key.key_id, key)


@given(requests, requests)
def test_a_box_opens_for_no_other_envelope_and_as_no_other_key(one, other) -> None:
    key, envelope = one
    box = seal(key, envelope.public)
    refused(other[1], box, key.key_id, key)
    refused(envelope, box, COUNTING.key_id, key)


def refused(envelope: Envelope, box: bytes, key_id: str, key: SecretKey) -> None:
    with pytest.raises(VaultError, match=f"sealed box for key {key_id}") as told:
        envelope.unseal(box, key_id)
    assert key.reveal().hex() not in str(told.value)


@given(st.binary(max_size=80).filter(lambda public: len(public) != 32) | st.sampled_from([bytes(32)]))
def test_nothing_is_sealed_for_a_public_half_that_is_none(public: bytes) -> None:
    with pytest.raises(VaultError, match="not one of X25519"):
        seal(COUNTING, public)


@pytest.mark.parametrize("ship", [pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy])
def test_an_envelope_is_neither_pickled_nor_copied(ship) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        ship(Envelope())
