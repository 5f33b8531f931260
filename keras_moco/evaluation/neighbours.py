"""Exact search of the most similar rows of a bank that may stream past."""

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_moco.errors import UserError

# Bank rows compared at once. Merging them into the running top k costs about as much for few rows as for many.
BANK_CHUNK = 32768
# Similarities whose largest stands for all of them while a lower bound of the k-th best is sought.
_GROUP = 16


class Neighbours(NamedTuple):
    """The `k` most similar bank rows of `n` queries, best first.

    Attributes:
        similarity: float32 array `(n, k)`, cosine similarities.
        rows: int64 array `(n, k)`, positions in the bank.
    """

    similarity: np.ndarray
    rows: np.ndarray


def nearest_neighbours(bank, queries, k, chunk_size=256, bank_chunk=BANK_CHUNK):
    """The `k` bank rows most similar to each query by cosine similarity, exactly.

    The bank is read once, in chunks of `bank_chunk` rows, so it may be larger than memory. Besides the arguments, what
    an iterable itself holds and `4 * n * F + 12 * n * k` bytes for unit queries and result, memory is at most about
    `20 * bank_chunk * F + 40 * chunk_size * (bank_chunk + 2 * k)` bytes (680 MB for the defaults, F = 512 and k = 200;
    usually about half of it, the rest where very many similarities are equal), however large the bank. An array and
    the same rows in blocks of any size give the same bits.

    A vector of zeros has similarity 0 to everything. Among equal similarities the row that comes first in the bank
    wins.

    Args:
        bank: array `(m, F)`, also `np.memmap`, or iterable of blocks, arrays `(b, F)` with any `b` each. Rows need not
            be normalised.
        queries: array `(n, F)`.
        k: int, at most `m`.
        chunk_size: int, queries compared at once. Defaults to `256`, measured beside 512 and 1024.
        bank_chunk: int, bank rows compared at once. Defaults to `32768`, measured beside 8192 and 16384.

    Returns:
        `Neighbours(similarity, rows)`, `(n, k)` each, best first.

    Raises:
        ValueError: for shapes that do not fit together, features that are not finite, or `k` above the size of the
            bank; of an iterable that is known at its end.

    Example:

    >>> nearest_neighbours(np.array([[0.0, 3.0], [1.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 0.0]]), k=2).rows.tolist()
    [[1, 2]]
    """
    held = hasattr(bank, "shape")
    if held:
        _check_widths(bank.shape, np.shape(queries))
    check_k(k, len(bank) if held else None)
    search = NeighbourSearch(queries, k, chunk_size, bank_chunk)
    for block in [bank] if held else bank:
        search.add(block)
    return search.found()


class NeighbourSearch:
    """`nearest_neighbours` in a bank that is handed over block by block: several searches share one pass over it.

    Args:
        queries, k, chunk_size, bank_chunk: as of `nearest_neighbours`.

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
        self._chunk, self._filled = None, 0  # rows that wait until there are enough of them
        self._seen = 0

    def add(self, block):
        """Goes on with the next rows of the bank, `(b, F)`.

        Copied, since a block may be a buffer that its maker fills again.

        Raises:
            ValueError: for rows of another width, or that are not finite.
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
            ValueError: if there are fewer than `k`.
        """
        if self._filled:
            self._compare()
        check_k(self._k, self._seen)
        return Neighbours(self._similarity, self._rows)

    def _compare(self):
        transposed = ops.transpose(_unit(self._chunk[: self._filled]))  # (F, b)
        best, rows = ([array[part] for part in self._parts] for array in (self._similarity, self._rows))
        # Two at a time: while NumPy selects for some queries on one core, the next product runs on the others.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_improve, best, rows, self._unit, repeat(transposed), repeat(self._seen)))
        self._seen += self._filled
        self._chunk, self._filled = None, 0


def check_k(k, bank_rows):
    """Raises `ValueError` unless `1 <= k <= bank_rows`; `None` is a size not known yet."""
    if k < 1 or (bank_rows is not None and k > bank_rows):
        bank = "bank of unknown size" if bank_rows is None else f"bank of {bank_rows}"
        raise UserError(
            f"`k` must be between 1 and the number of bank features. Received: k={k}, {bank}. "
            "Lower `k` or use a larger bank."
        )


def _check_widths(bank, queries):
    if len(bank) != 2 or len(queries) != 2 or bank[1] != queries[1]:
        raise UserError(
            "Bank and queries must be matrices of the same width, (m, F) and (n, F). "
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
    """Puts what a chunk of the bank has to offer into the running top `k`, two arrays `(c, k)`, in place."""
    k = best.shape[1]
    similarity = ops.matmul(queries, chunk)  # (c, b)
    offered, columns = _worthwhile(similarity, best)
    if not offered.shape[1]:
        return
    # What was found earlier stands first, and top_k prefers the earlier of two equals: chunks change no tie.
    found, place = ops.top_k(np.concatenate([best, offered], axis=1), k)
    place = ops.convert_to_numpy(place)  # (c, k)
    new = start + np.take_along_axis(columns, np.maximum(place - k, 0), axis=1)
    best_rows[:] = np.where(place < k, np.take_along_axis(best_rows, np.minimum(place, k - 1), axis=1), new)
    best[:] = found


def _worthwhile(similarity, best):
    """The similarities that may enter the running top `k`: values and columns, `(c, w)`, in the order of the columns.

    Exact, since only what cannot enter is left out: what is not above the k-th best so far, and what is below the k-th
    largest maximum of groups of columns, for k columns are at least as large as that. Groups take every so many-th
    column, so that the similar rows of a bank sorted by class do not crowd into few of them.
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
    if 8 * counts.sum() > keep.size:  # many equals: picking them out would take more memory than it saves
        return similarity, np.broadcast_to(np.arange(b), (c, b))
    query, column = np.divmod(np.flatnonzero(keep), b)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    offered = np.full((c, counts.max()), -np.inf, "float32")
    columns = np.zeros(offered.shape, "int32")
    offered[query, place] = similarity[query, column]
    columns[query, place] = column
    return offered, columns
