import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from keras_moco.evaluation import nearest_neighbours


@pytest.fixture(scope="module")
def digits():
    images = load_digits().data.astype("float32")
    return images[:1500], images[1500:]


def integers(rows, seed, width=3):
    """Unit vectors along and between axes, with whole numbers to compute with exactly, so that most are tied."""
    axes = np.concatenate([np.eye(width), -np.eye(width), np.zeros((1, width))])
    return axes[np.random.default_rng(seed).integers(0, len(axes), rows)].astype("float32")


def reference(bank, queries, k):
    """Everything sorted in float64, equals by position."""
    bank, queries = (
        rows.astype("float64") / np.maximum(np.linalg.norm(rows.astype("float64"), axis=1, keepdims=True), 1e-300)
        for rows in (bank, queries)
    )
    similarity = queries @ bank.T
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, rows, axis=1), rows


def in_blocks(bank, size):
    return (bank[start : start + size] for start in range(0, len(bank), size))


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.similarity, expected.similarity)
    np.testing.assert_array_equal(found.rows, expected.rows)


@pytest.mark.parametrize("k", [1, 7, 90, 1500])
def test_it_finds_what_sorting_everything_finds(k):
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((1500, 16)), rng.standard_normal((40, 16))
    found, (similarity, rows) = nearest_neighbours(bank, queries, k), reference(bank, queries, k)
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-6)
    assert np.mean(found.rows == rows) > 0.999  # float32 cannot tell all of 60,000 apart
    assert all(len(set(row)) == k for row in found.rows)
    assert (found.similarity.dtype, found.rows.dtype) == ("float32", "int64")


def test_its_ranking_of_real_features_is_that_of_scikit_learn(digits):
    bank, queries = digits
    distance, rows = NearestNeighbors(n_neighbors=50, algorithm="brute", metric="cosine").fit(bank).kneighbors(queries)
    found = nearest_neighbours(bank, queries, 50)
    np.testing.assert_allclose(found.similarity, 1 - distance, atol=2e-6)
    # Their float32 distances are rounded otherwise: few pairs closer than that stand the other way round.
    assert np.mean(found.rows == rows) > 0.99


@pytest.mark.parametrize("bank_chunk", [1, 17, 64, 499, 500, 8192])
@pytest.mark.parametrize("k", [3, 40])
def test_among_equals_the_first_in_the_bank_wins_whatever_the_chunks(k, bank_chunk):
    bank, queries = integers(500, seed=1), integers(23, seed=2)
    found = nearest_neighbours(bank, queries, k, chunk_size=7, bank_chunk=bank_chunk)
    similarity, rows = reference(bank, queries, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.similarity, similarity)


@pytest.mark.parametrize("best_first", [False, True])
def test_a_bank_may_get_better_and_better_as_one_sorted_by_class_can(best_first):
    cosines = np.linspace(1, -1, 3000) if best_first else np.linspace(-1, 1, 3000)
    bank = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    found = nearest_neighbours(bank, np.array([[1.0, 0.0]]), 30, bank_chunk=640)
    np.testing.assert_array_equal(found.rows[0], np.arange(30) if best_first else np.arange(2999, 2969, -1))
    np.testing.assert_allclose(found.similarity[0], np.sort(cosines)[::-1][:30], atol=1e-6)


def test_few_rows_stand_out_from_many_equal_ones():
    bank = np.tile([[1.0, 1.0]], (2000, 1))
    bank[[300, 1200, 1999]] = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]]
    found = nearest_neighbours(bank, np.array([[1.0, 0.0], [1.0, 1.0]]), 5, bank_chunk=512)
    np.testing.assert_array_equal(found.rows, [[300, 1200, 1999, 0, 1], [0, 1, 2, 3, 4]])


@pytest.mark.parametrize("size", [1, 100, 333, 1500])
def test_a_streamed_bank_gives_the_bits_of_a_held_one(digits, size):
    bank, queries = digits
    held = nearest_neighbours(bank, queries, 50, bank_chunk=400)
    assert_same_bits(nearest_neighbours(in_blocks(bank, size), queries, 50, bank_chunk=400), held)


def test_blocks_may_share_one_buffer(digits):
    bank, queries = digits
    buffer = np.empty((100, 64), "float32")

    def refilled():
        for start in range(0, 1500, 100):
            buffer[:] = bank[start : start + 100]
            yield buffer

    held = nearest_neighbours(bank, queries, 50, bank_chunk=400)
    assert_same_bits(nearest_neighbours(refilled(), queries, 50, bank_chunk=400), held)


def test_a_bank_on_disk_is_an_array_too(digits, tmp_path):
    bank, queries = digits
    stored = np.memmap(tmp_path / "bank", "float32", "w+", shape=bank.shape)
    stored[:] = bank
    assert_same_bits(nearest_neighbours(stored, queries, 9), nearest_neighbours(bank, queries, 9))


def test_vectors_of_zeros_are_similar_to_nothing():
    bank = np.array([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    found = nearest_neighbours(bank, np.array([[3.0, 0.0], [0.0, 0.0]]), 3)
    np.testing.assert_array_equal(found.rows, [[2, 1, 0], [0, 1, 2]])
    np.testing.assert_array_equal(found.similarity, [[1, 0, -1], [0, 0, 0]])


def test_no_queries_have_no_neighbours():
    assert nearest_neighbours(np.eye(4), np.empty((0, 4)), 2).rows.shape == (0, 2)


def unread():
    raise AssertionError("work was begun")
    yield


WIDTHS = (
    "Bank and queries must be matrices of the same width, (m, F) and (n, F). Received: shapes (4, 4) and (2, 3). "
    "Take both from the same encoder."
)
FINITE = (
    "Features must be finite. Received: NaN or infinite features. "
    "The training has probably diverged; lower the learning rate."
)
K_RULE = "`k` must be between 1 and the number of bank features. Received: k={}, bank of {}. "


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"queries": np.ones((2, 3))}, WIDTHS),
        ({"k": 5}, K_RULE.format(5, 4) + "Lower `k` or use a larger bank."),
        ({"queries": np.array([[1, 1, np.nan, 1]])}, FINITE),
        ({"queries": np.array([[1, 1, np.inf, 1]])}, FINITE),
        ({"bank": np.array([[1, 1, 1, -np.inf], [1, 1, 1, 1]])}, FINITE),
        ({"bank": np.array([[1, 1, 1, 1], [np.nan, 0, 0, 0]])}, FINITE),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1. Received: chunk_size=0. Use e.g. 1024."),
    ],
)
def test_what_cannot_be_right_is_refused(change, sentence, streamed):
    arguments = {"bank": np.eye(4), "queries": np.ones((2, 4)), "k": 2} | change
    if streamed:
        arguments["bank"] = [arguments["bank"]]
    with pytest.raises(ValueError) as error:
        nearest_neighbours(**arguments)
    assert str(error.value) == sentence


def test_no_neighbours_are_refused_before_a_stream_is_read():
    with pytest.raises(ValueError) as error:
        nearest_neighbours(unread(), np.ones((2, 4)), 0)
    assert str(error.value) == K_RULE.format(0, "unknown size") + "Lower `k` or use a larger bank."


def test_a_later_block_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"Received: shapes \(2, 3\) and \(1, 4\)\. Take both"):
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_memory_is_bounded_by_the_chunk_however_large_the_bank():
    command = [sys.executable, "-c", PEAK.format(rows=400_000)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    first, doubled = map(float, found.split())
    bound = (20 * 32768 * 128 + 40 * 100 * (32768 + 2 * 50)) / 2**20  # as the docstring says: 205 MB
    assert 16 < first < bound, found  # one chunk is 16 MB
    assert doubled < 16, found  # the bank itself grew by 195 MB
