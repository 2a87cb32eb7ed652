import math

import numpy as np
import pytest

from deepcore.backends.numpy import random as native
from deepcore.errors import ArgumentError
from deepcore.ops import random as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

DEVICES = ["CPU_DEVICE", "device1", "no_float64"]
HOST = np.empty(0)

# key, counter, result for threefry2x32 with 20 rounds: `kat_vectors` of Random123
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def like_on(device):
    return strict.zeros(1, dtype=strict.float32, device=strict.Device(device))


def on_host(A):
    return A if isinstance(A, np.ndarray) else np.asarray(A.to_device(strict.Device("CPU_DEVICE")))


@pytest.mark.parametrize(("key", "counter", "words"), KNOWN)
def test_known_answers(key, counter, words):
    assert ops.mix_ints(*counter, key) == words
    x0, x1 = (np.array([word], np.uint32) for word in counter)
    native.mix(x0, x1, key)
    assert (*x0.tolist(), *x1.tolist()) == words
    x0, x1 = ops.mix(*(strict.asarray([ops.signed(word)], dtype=strict.int32) for word in counter), key)
    assert (int(x0[0]), int(x1[0])) == tuple(map(ops.signed, words))


def test_bits_are_for_ever():
    """A saved seed must give the same weights in every later version."""
    bits = ops.random_bits(HOST, (4,), 2026, "weights", 3)
    assert bits.tolist() == [-210834124, -278081383, -1156499079, -151072223]
    assert ops.permutation(8, 2026, "shuffle", 1).tolist() == [3, 6, 2, 1, 0, 5, 4, 7]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("start", [0, 1, 5, 2**32 - 3, 2**33 - 101])
def test_every_library_draws_the_same_bits(device, start):
    wanted = ops.random_bits(HOST, (7, 13), 2**63 + 5, "dropout", 2**32 - 1, start)
    got = ops.random_bits(like_on(device), (7, 13), 2**63 + 5, "dropout", 2**32 - 1, start)
    assert got.dtype == strict.int32
    assert got.device == strict.Device(device)
    assert np.array_equal(on_host(got), wanted)
    key = ops.stream_key(2**63 + 5, "dropout")
    assert np.array_equal(ops.threefry.reference(HOST, 91, key, -1, start), wanted.reshape(-1))


def test_native_blocks_join(monkeypatch):
    whole = ops.random_bits(HOST, (1001,), 0, "x", 0)
    monkeypatch.setattr(native, "_BLOCK", 64)
    assert np.array_equal(ops.random_bits(HOST, (1001,), 0, "x", 0), whole)


DRAWS = {
    "bits": ops.random_bits,
    "uniform": ops.uniform,
    "normal": ops.normal,
    "keep": lambda like, shape, *rest, **options: ops.keep_mask(like, shape, 0.3, *rest, **options),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
@pytest.mark.parametrize("like", [HOST, like_on("device1")], ids=["numpy", "strict"])
def test_a_part_draws_what_the_whole_would(draw, like):
    whole = on_host(draw(like, (101,), 7, "x", 1))
    for start in (0, 1, 2, 33, 100):
        for n in (0, 1, 2, 11):
            part = on_host(draw(like, (n,), 7, "x", 1, start=start))
            assert part.dtype == whole.dtype
            assert np.array_equal(part[: 101 - start], whole[start : start + n])


def test_number_i_does_not_depend_on_the_size():
    larger = ops.random_bits(HOST, (3, 4), 0, 0, 0)
    assert np.array_equal(ops.random_bits(HOST, (5,), 0, 0, 0), larger.flat[:5])


def test_seed_stream_and_call_each_change_everything():
    draws = [
        ops.random_bits(HOST, (1000,), *key).view(np.uint32)
        for key in [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, "0", 0), (0, "a", 0), (0, 0, 1)]
    ]
    for i, A in enumerate(draws):
        for B in draws[:i]:
            differing = np.bitwise_count(A ^ B).sum() / (32 * A.size)
            assert 0.48 < differing < 0.52


@pytest.mark.parametrize("like", [HOST, like_on("device1")], ids=["numpy", "strict"])
def test_call_may_be_an_array(like):
    xp = np if like is HOST else strict
    call = xp.asarray(12, dtype=xp.int32, device=like.device)
    with_int, with_array = (ops.random_bits(like, (9,), 1, "x", number) for number in (12, call))
    assert np.array_equal(on_host(with_int), on_host(with_array))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ArgumentError, match=r"seed must be an int from 0 to 2\*\*64 - 1, got "):
        ops.random_bits(HOST, (3,), seed, "x", 0)


def test_bits_are_balanced_and_independent():
    bits = ops.random_bits(HOST, (200_000,), 0, "x", 0).view(np.uint32)
    ones = [np.mean(bits >> np.uint32(i) & np.uint32(1)) for i in range(32)]
    assert np.max(np.abs(np.array(ones) - 0.5)) < 5 * 0.5 / math.sqrt(bits.size)
    for lag in (1, 2, 3):
        equal = np.bitwise_count(bits[lag:] ^ bits[:-lag]).mean() / 32
        assert abs(equal - 0.5) < 5 * 0.5 / math.sqrt(32 * bits.size)


def test_uniform_fills_its_interval_evenly():
    U = ops.uniform(HOST, (200_000,), 0, "x", 0)
    assert U.dtype == np.float32
    assert U.min() >= 0
    assert U.max() < 1
    counts = np.bincount((U * 100).astype(int), minlength=100)
    chi_square = np.sum((counts - 2000) ** 2 / 2000)
    assert 99 - 5 * 14.1 < chi_square < 99 + 5 * 14.1
    assert abs(U.astype(float).mean() - 0.5) < 5 / math.sqrt(12 * U.size)


@pytest.mark.parametrize("device", DEVICES)
def test_uniform_is_the_same_everywhere_and_in_every_dtype(device):
    U = ops.uniform(HOST, (1000,), 0, "x", 0)
    assert np.array_equal(U, ops.uniform(HOST, (1000,), 0, "x", 0, dtype=np.float64))
    assert np.array_equal(U, on_host(ops.uniform(like_on(device), (1000,), 0, "x", 0)))


def test_normal_has_the_moments_of_one():
    Z = ops.normal(HOST, (400_000,), 0, "x", 0, dtype=np.float64)
    for power, moment, deviation in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(Z**power) - moment) < 5 * math.sqrt(deviation / Z.size)
    assert abs(np.mean(Z[::2] * Z[1::2])) < 5 / math.sqrt(Z.size / 2)
    assert abs(np.mean(Z > 2) - 0.0227501) < 5 * math.sqrt(0.0227501 / Z.size)


@pytest.mark.parametrize("device", DEVICES)
def test_normal_is_nearly_the_same_everywhere(device):
    Z = ops.normal(like_on(device), (1000,), 0, "x", 0)
    assert Z.dtype == strict.float32
    np.testing.assert_allclose(on_host(Z), ops.normal(HOST, (1000,), 0, "x", 0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("p_drop", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("device", DEVICES)
def test_keep_mask_is_where_uniform_reaches_p_drop(p_drop, device):
    mask = ops.keep_mask(HOST, (500, 200), p_drop, 0, "x", 0)
    assert mask.dtype == bool
    assert np.array_equal(mask, ops.uniform(HOST, (500, 200), 0, "x", 0, dtype=np.float64) >= p_drop)
    assert abs(mask.mean() - (1 - p_drop)) < 5 * math.sqrt(p_drop * (1 - p_drop) / mask.size) + 1e-12
    assert np.array_equal(on_host(ops.keep_mask(like_on(device), (500, 200), p_drop, 0, "x", 0)), mask)


def test_keep_mask_keeps_a_draw_that_equals_p_drop():
    U = ops.uniform(HOST, (100,), 0, "x", 0)
    for i in range(3):
        assert ops.keep_mask(HOST, (100,), float(U[i]), 0, "x", 0)[i]


def test_shapes_without_numbers():
    for draw in DRAWS.values():
        assert draw(HOST, (0, 3), 0, "x", 0).shape == (0, 3)
        assert draw(like_on("device1"), (0, 3), 0, "x", 0).shape == (0, 3)
        assert draw(HOST, (), 0, "x", 0).shape == ()


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_has_each_number_once(n):
    order = ops.permutation(n, 0, "shuffle", 0)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_all_orders_come_up_equally_often():
    orders = [tuple(ops.permutation(3, 0, "shuffle", call).tolist()) for call in range(3000)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert counts.size == 6
    assert np.sum((counts - 500) ** 2 / 500) < 30
