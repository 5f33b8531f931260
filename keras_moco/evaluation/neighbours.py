"""Exact search for the most similar rows of a reference set, which may be streamed."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_moco.errors import UserError

# Rows compared at once. Merging them into the top k so far costs about the same for few rows as for many.
BANK_CHUNK = 32768
_GROUP = 16  # similarities per group, of which only the maximum is used for a lower bound of the k-th best


class Neighbours(NamedTuple):
    """The `k` most similar rows of a reference set for `n` queries, best first.

    Attributes:
        similarity: float32 array `(n, k)`, cosine similarities.
        rows: int64 array `(n, k)`, positions in the reference set.
    """

    similarity: np.ndarray
    rows: np.ndarray


def nearest_neighbours(
    bank: np.ndarray | Iterable[np.ndarray],
    queries: np.ndarray,
    k: int,
    chunk_size: int = 256,
    bank_chunk: int = BANK_CHUNK,
) -> Neighbours:
    """The `k` rows of a reference set most similar to each query by cosine similarity, exactly.

    The reference set is read once, in chunks of `bank_chunk` rows, so it may be larger than memory. Besides the
    arguments, the memory of an iterable itself, and `4 * n * F + 12 * n * k` bytes for unit queries and result, memory
    is at most about `20 * bank_chunk * F + 40 * chunk_size * (bank_chunk + 2 * k)` bytes, however large the reference
    set: 680 MB for the defaults, F = 512 and k = 200, usually about half of it; the rest is needed if very many
    similarities are equal. An array and the same rows in blocks of any size give identical bits.

    A vector of zeros has similarity 0 to everything. Among equal similarities the first row wins.

    Args:
        bank: the reference set: array `(m, F)`, also `np.memmap`, or iterable of blocks, arrays `(b, F)` of any `b`.
            Rows need not be normalised.
        queries: array `(n, F)`.
        k: int, at most `m`.
        chunk_size: int, number of queries compared at once. Defaults to `256`, measured beside 512 and 1024.
        bank_chunk: int, number of rows compared at once. Defaults to `32768`, measured beside 8192 and 16384.

    Returns:
        `Neighbours(similarity, rows)`, `(n, k)` each, best first.

    Raises:
        ValueError: for shapes that do not fit together, features that are not finite, or `k` above the size of the
            reference set; for an iterable, at its end.

    Example:

    >>> nearest_neighbours(np.array([[0.0, 3.0], [1.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 0.0]]), k=2).rows.tolist()
    [[1, 2]]
    """
    held = hasattr(bank, "shape")
    if held:
        _check_widths(bank.shape, np.shape(queries))
    check_k(k, bank.shape[0] if held else None)
    search = NeighbourSearch(queries, k, chunk_size, bank_chunk)
    for block in [bank] if held else bank:
        search.add(block)
    return search.found()


class NeighbourSearch:
    """`nearest_neighbours` in a reference set that is added block by block, so that searches can share one pass.

    Args:
        queries, k, chunk_size, bank_chunk: as for `nearest_neighbours`.

    Raises:
        ValueError: for arguments that do not fit, and queries that are not finite.

    Example:

    >>> search = NeighbourSearch(np.array([[5.0, 0.0]]), k=2)
    >>> for block in ([[0.0, 3.0], [1.0, 0.0]], [[2.0, 0.0]]):
    ...     search.add(np.array(block))
    >>> search.found().rows.tolist()
    [[1, 2]]
    """

    def __init__(self, queries, k, chunk_size=256, bank_chunk=BANK_CHUNK):
        queries = np.asarray(queries)
        _check_widths((0, *queries.shape[1:]), queries.shape)
        check_k(k, None)
        if chunk_size < 1:
            raise UserError(f"`chunk_size` must be at least 1. Received: chunk_size={chunk_size}. Use e.g. 1024.")
        self._shape, self._k, self._bank_chunk = queries.shape, k, bank_chunk
        self._similarity = np.full((len(queries), k), -np.inf, "float32")
        self._rows = np.zeros((len(queries), k), "int64")
        self._parts = [slice(start, start + chunk_size) for start in range(0, len(queries), chunk_size)]
        self._unit = [_unit(np.asarray(queries[part], "float32")) for part in self._parts]
        self._chunk, self._filled = None, 0  # rows to compare, once the chunk is full
        self._seen = 0

    def add(self, block):
        """Adds the next rows of the reference set, `(b, F)`, as a copy: a block may be a buffer that is used again.

        Raises:
            ValueError: for rows of another width, or rows that are not finite.
        """
        _check_widths(np.shape(block), self._shape)
        taken = 0
        while taken < len(block):
            if not self._filled:
                self._chunk = np.empty((self._bank_chunk, self._shape[1]), "float32")
            part = block[taken : taken + self._bank_chunk - self._filled]
            self._chunk[self._filled : self._filled + len(part)] = part
            taken, self._filled = taken + len(part), self._filled + len(part)
            if self._filled == self._bank_chunk:
                self._compare()

    def found(self):
        """The `Neighbours` among all rows so far.

        Raises:
            ValueError: if there are fewer than `k` rows.
        """
        if self._filled:
            self._compare()
        check_k(self._k, self._seen)
        return Neighbours(self._similarity, self._rows)

    def _compare(self):
        transposed = ops.transpose(_unit(self._chunk[: self._filled]))  # (F, b)
        best, rows = ([array[part] for part in self._parts] for array in (self._similarity, self._rows))
        # Two threads: while NumPy selects for some queries on one core, the next product runs on the others.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_improve, best, rows, self._unit, repeat(transposed), repeat(self._seen)))
        self._seen += self._filled
        self._chunk, self._filled = None, 0


def check_k(k, bank_rows):
    """Raises `ValueError` unless `1 <= k <= bank_rows`; `None` is an unknown size."""
    if k < 1 or (bank_rows is not None and k > bank_rows):
        size = "unknown size" if bank_rows is None else bank_rows
        raise UserError(
            f"`k` must be between 1 and the size of the reference set. Received: k={k}, reference set of {size}. "
            "Lower `k` or use a larger reference set."
        )


def _check_widths(bank, queries):
    if len(bank) != 2 or len(queries) != 2 or bank[1] != queries[1]:
        raise UserError(
            "Reference set and queries must be matrices of the same width, (m, F) and (n, F). "
            f"Received: shapes {tuple(bank)} and {queries}. Take both from the same encoder."
        )


def _unit(rows):
    # Rows are scaled by their largest entry first, so that squaring neither overflows nor vanishes.
    rows = ops.convert_to_tensor(rows)
    rows = rows / ops.maximum(ops.max(ops.abs(rows), axis=1, keepdims=True), np.finfo("float32").tiny)
    norms = ops.sqrt(ops.sum(ops.square(rows), axis=1, keepdims=True))
    if not np.isfinite(norms).all():
        raise UserError(
            "Features must be finite. Received: NaN or infinite features. "
            "The training has probably diverged; lower the learning rate."
        )
    return rows / ops.where(norms > 0, norms, 1.0)


def _improve(best, best_rows, queries, chunk, start):
    """Merges a chunk of the reference set into the top `k` so far, two arrays `(c, k)`, in place."""
    k = best.shape[1]
    similarity = ops.matmul(queries, chunk)  # (c, b)
    offered, columns = _worthwhile(similarity, best)
    if not offered.shape[1]:
        return
    # Earlier rows come first, and top_k prefers the first of two equals: chunks change no tie.
    found, place = ops.top_k(np.concatenate([best, offered], axis=1), k)
    place = ops.convert_to_numpy(place)  # (c, k)
    new = start + np.take_along_axis(columns, np.maximum(place - k, 0), axis=1)
    best_rows[:] = np.where(place < k, np.take_along_axis(best_rows, np.minimum(place, k - 1), axis=1), new)
    best[:] = found


def _worthwhile(similarity, best):
    """The similarities that may enter the top `k` so far: values and columns, `(c, w)`, in the order of the columns.

    Exact: only those are skipped that are not above the k-th best so far, or below the k-th largest of the maxima of
    groups of columns, as at least k columns reach that. A group takes columns at equal distances, so that the similar
    rows of a reference set sorted by class are in different groups. A `top_k` of the whole chunk in place of this
    selection takes 1.4 to 1.8 times as long (`benchmarks/knn.py`).
    """
    (c, b), k = similarity.shape, best.shape[1]
    bound = np.nextafter(best[:, -1:], np.float32(np.inf))
    groups = b // _GROUP
    if groups >= k:
        grouped = ops.reshape(similarity[:, : groups * _GROUP], (c, _GROUP, groups))
        maxima = ops.convert_to_numpy(ops.max(grouped, axis=1))  # (c, groups)
        bound = np.maximum(bound, np.partition(maxima, groups - k, axis=1)[:, groups - k, None])
    similarity = ops.convert_to_numpy(similarity)
    keep = similarity >= bound
    counts = np.count_nonzero(keep, axis=1)
    if 8 * counts.sum() > keep.size:  # many equals: selecting them would take more memory than it saves
        return similarity, np.broadcast_to(np.arange(b), (c, b))
    query, column = np.divmod(np.flatnonzero(keep), b)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    offered = np.full((c, counts.max()), -np.inf, "float32")
    columns = np.zeros(offered.shape, "int32")
    offered[query, place] = similarity[query, column]
    columns[query, place] = column
    return offered, columns
