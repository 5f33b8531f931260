"""Exact search for neighbours, against a full sort."""

import subprocess
import sys

import numpy as np
import pytest

from keras_moco.evaluation import nearest_neighbours


def whole_numbers(rows, seed, width=3):
    """Vectors along axes, whose products are exact in any order; most of them are tied."""
    axes = np.concatenate([np.eye(width), -np.eye(width), np.zeros((1, width))])
    return axes[np.random.default_rng(seed).integers(0, len(axes), rows)].astype("float32")


def reference(bank, queries, k):
    """A full sort in float64, equals by position."""
    bank, queries = (
        rows.astype("float64") / np.maximum(np.linalg.norm(rows.astype("float64"), axis=1, keepdims=True), 1e-300)
        for rows in (bank, queries)
    )
    similarity = queries @ bank.T
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, rows, axis=1), rows


def assert_equal(found, expected):
    similarity, rows = expected
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.similarity, similarity)


@pytest.mark.parametrize("k", [1, 90, 1500])
def test_search_equals_full_sort(k):
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((1500, 16)), rng.standard_normal((40, 16))
    found, (similarity, rows) = nearest_neighbours(bank, queries, k), reference(bank, queries, k)
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-6)
    # float32 does not distinguish all 60,000; those that are swapped are equally similar.
    assert np.mean(found.rows == rows) > 0.999
    assert all(len(set(row)) == k for row in found.rows)
    assert (found.similarity.dtype, found.rows.dtype) == ("float32", "int64")


@pytest.mark.parametrize("bank_chunk", [7, 499, 500, 8192])
@pytest.mark.parametrize("k", [3, 40])
def test_first_of_equal_rows_wins_for_any_chunk_size(k, bank_chunk):
    bank, queries = whole_numbers(500, seed=1), whole_numbers(23, seed=2)
    found = nearest_neighbours(bank, queries, k, chunk_size=7, bank_chunk=bank_chunk)
    assert_equal(found, reference(bank, queries, k))


@pytest.mark.parametrize("size", [1, 333, 1500])
def test_streamed_reference_set_equals_array(size):
    bank, queries = whole_numbers(1500, seed=1, width=16), whole_numbers(20, seed=2, width=16)
    blocks = (bank[start : start + size] for start in range(0, len(bank), size))
    assert_equal(nearest_neighbours(blocks, queries, 50, bank_chunk=400), reference(bank, queries, 50))


def test_blocks_may_share_a_buffer_or_be_on_disk(tmp_path):
    bank, queries = whole_numbers(1500, seed=1, width=16), whole_numbers(20, seed=2, width=16)
    buffer, expected = np.empty((100, 16), "float32"), reference(bank, queries, 50)

    def refilled():
        for start in range(0, 1500, 100):
            buffer[:] = bank[start : start + 100]
            yield buffer

    assert_equal(nearest_neighbours(refilled(), queries, 50, bank_chunk=400), expected)
    stored = np.memmap(tmp_path / "bank", "float32", "w+", shape=bank.shape)
    stored[:] = bank
    assert_equal(nearest_neighbours(stored, queries, 50), expected)


def test_vectors_of_zeros_are_similar_to_nothing():
    bank = np.array([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    found = nearest_neighbours(bank, np.array([[3.0, 0.0], [0.0, 0.0]]), 3)
    np.testing.assert_array_equal(found.rows, [[2, 1, 0], [0, 1, 2]])
    np.testing.assert_array_equal(found.similarity, [[1, 0, -1], [0, 0, 0]])
    assert nearest_neighbours(np.eye(4), np.empty((0, 4)), 2).rows.shape == (0, 2)


def unread():
    raise AssertionError("work was begun")
    yield


@pytest.mark.parametrize("streamed", [False, True])
def test_bad_arguments_are_refused(streamed):
    for change, variable in (
        ({"queries": np.ones((2, 3))}, "shapes (4, 4) and (2, 3)"),
        ({"k": 5}, "k=5, reference set of 4"),
        ({"queries": np.array([[1, 1, np.nan, 1]])}, "NaN or infinite"),
        ({"bank": np.array([[1, 1, 1, -np.inf], [1, 1, 1, 1]])}, "NaN or infinite"),
        ({"chunk_size": 0}, "chunk_size=0"),
    ):
        arguments = {"bank": np.eye(4), "queries": np.ones((2, 4)), "k": 2} | change
        if streamed:
            arguments["bank"] = [arguments["bank"]]
        with pytest.raises(ValueError) as error:
            nearest_neighbours(**arguments)
        assert f"Received: {variable}" in str(error.value)


def test_bad_stream_is_refused_early():
    with pytest.raises(ValueError, match="k=0, reference set of unknown size"):
        nearest_neighbours(unread(), np.ones((2, 4)), 0)
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(1, 4\)"):
        nearest_neighbours([np.ones((2, 4)), np.ones((2, 3))], np.ones((1, 4)), 1)


PEAK = """
import numpy as np
from keras_moco.evaluation import nearest_neighbours

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

def bank(rows):
    rng = np.random.default_rng(0)
    for _ in range(rows // 5000):
        yield rng.standard_normal((5000, 128), dtype="float32")

queries = next(bank(5000))[:100]
nearest_neighbours(bank(5000), queries, 50, bank_chunk=512)
start = peak()
nearest_neighbours(bank({rows}), queries, 50)
once = peak()
nearest_neighbours(bank(2 * {rows}), queries, 50)
print(once - start, peak() - once)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_memory_is_bounded_by_the_chunk_size():
    command = [sys.executable, "-c", PEAK.format(rows=400_000)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    first, doubled = map(float, found.split())
    bound = (20 * 32768 * 128 + 40 * 100 * (32768 + 2 * 50)) / 2**20  # from the docstring: 205 MB
    assert 16 < first < bound, found  # one chunk is 16 MB
    assert doubled < 16, found  # the reference set grew by 195 MB
