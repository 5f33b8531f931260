"""Labels of records are those of the names, from whichever number they count, and none is out of range."""

import numpy as np
import pytest

from keras_moco.data import labels, open_source, plain_read_errors
from tests.data.written import encoded, record, smooth, write_records

NAMES = ("tench", "goldfish", "shark")
PNG = encoded(smooth(0, 6, 7), "png")


@pytest.fixture
def written(tmp_path):
    """Writes the labels of each split, and the names beside them; returns the pattern."""

    def written(names=NAMES, **splits):
        (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in names))
        for split, numbers in splits.items():
            write_records(tmp_path / f"{split}-0", [record(PNG, number) for number in numbers])
        return f"tfrecord:{tmp_path}/{{split}}-*"

    return written


def read(pattern, split="train"):
    return open_source(pattern, split).labels().tolist()


def test_labels_counted_from_1_as_by_tensorflow_s_scripts_are_those_of_their_names(written):
    assert read(written(train=[2, 1, 3, 3])) == [1, 0, 2, 2]
    assert read(written(train=[2, 0, 1, 1])) == [2, 0, 1, 1]
    assert read(written(names=("background", *NAMES), train=[2, 1, 3, 3])) == [2, 1, 3, 3]


def test_a_split_without_the_deciding_classes_counts_as_the_others_do(written):
    pattern = written(train=[2, 1, 3, 3], validation=[2, 1])
    assert read(pattern, "test") == [1, 0]
    assert read(written(train=[2, 1, 0], validation=[2, 1]), "test") == [2, 1]


def test_undecided_labels_count_from_0_with_a_warning(written, monkeypatch):
    said = []
    monkeypatch.setattr(labels.logging, "warning", lambda text, *args: said.append(text % args))
    assert read(written(train=[2, 1, 1])) == [2, 1, 1]
    assert len(said) == 1 and "first 3 records is 0 or 3" in said[0]


def test_an_image_may_be_without_a_label(written):
    assert read(written(train=[1, None, 3, -1])) == [0, -1, 2, -1]
    assert read(written(train=[None, -1])) == [-1, -1]


@pytest.mark.parametrize(
    "numbers, received",
    [
        ([0, 1, 3], "label 3 of record 2"),
        ([0, 2, 2**40], rf"label {2**40} of record 2"),
        ([0, 2, 2**32], rf"label {2**32} of record 2"),  # as int32 it would be 0
        ([1, -2, 3], "label -2 of record 1"),
        ([3, 1, 4], "label 4 of record 2"),
    ],
)
def test_a_label_out_of_range_is_refused_with_its_record(written, numbers, received):
    with pytest.raises(ValueError, match=rf"\ALabels must be from [01] to [23], .*Received: {received} of .*\Z"):
        open_source(written(train=numbers))


@pytest.mark.parametrize(
    "numbers, received", [([0, 1, 2, 3], "label 3"), ([1, 3, 2, 0], "label 0"), ([0, 1, 2, 2**32], f"label {2**32}")]
)
def test_a_later_label_out_of_range_is_refused_when_it_is_read(written, monkeypatch, numbers, received):
    monkeypatch.setattr(labels, "CHECKED", 2)
    monkeypatch.setattr("keras_moco.data.tfrecord.BLOCK", 1)
    source = open_source(written(train=numbers))
    with (
        pytest.raises(ValueError, match=rf"\ALabels must .*Received: {received} of record 3\. .*\Z"),
        plain_read_errors(),
    ):
        source.labels()


def test_no_more_labels_are_read_than_decide(monkeypatch):
    monkeypatch.setattr(labels, "CHECKED", 30)
    monkeypatch.setattr(labels, "DECIDING", 90)
    for parts, first, looked_at in (
        ([[1, 3]] * 100, 1, 30),
        ([[1, 2]] * 40 + [[2, 0]] * 60, 0, 82),
        ([[1, 2]] * 100, 0, 90),
    ):
        read = []
        blocks = (read.extend(part) or np.array(part) for part in parts)
        assert labels.check_first_labels(blocks, NAMES, "these") == first
        assert len(read) == looked_at
