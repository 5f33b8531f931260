"""3,000 files of every format, fault and oddity in one folder: what is read, and what is not and why, adds up."""

import collections
import contextlib
import csv
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest

from keras_moco.commands import check
from keras_moco.commands.evaluate import evaluate
from keras_moco.commands.pretrain import pretrain
from keras_moco.config import EvaluationConfig
from tests.data.written import time_limit
from tests.mixed_files import AGAIN, BAD, HIDDEN, READ, SPECIAL, TOTAL, UNREAD, counted, write_mixed_files
from tests.tiny import tiny_config
from tests.whole_runs import without_pictures_and_export

pytestmark = pytest.mark.slow

SMALL = dict(image_mean=(0.1,), image_std=(0.2,), image_size=16, batch_size=32, bn_splits=2, queue_size=64, epochs=1)
IMAGES = (READ, BAD)
NAMED_ENDINGS = 5


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The files, what the commands print and log about them, and the results: everything is done once."""
    root = tmp_path_factory.mktemp("mixed")
    written = write_mixed_files(root)
    name, run = f"folder:{root / 'photos'}", root / "run"
    images = {"workdir": str(run), "split": "train", "batch_size": 64}
    readable = sorted((each for each in written if each.kind.fate in IMAGES), key=lambda each: (each.label, each.path))
    queries = [str(place) for place, each in enumerate(readable) if each.kind.fate == READ][-3:]
    logged, printed = collections.defaultdict(list), {}

    def do(what, function, *arguments):
        def warning(text, *values):
            logged[what].append(text % values)

        patch.setattr("absl.logging.warning", warning)
        with contextlib.redirect_stdout(io.StringIO()) as out, time_limit(100):
            found = function(*arguments)
        printed[what] = out.getvalue()
        return found

    with pytest.MonkeyPatch.context() as patch, without_pictures_and_export():
        assert do("check", check.main, [name]) == 0
        results = do("train", pretrain, tiny_config(run, dataset=name, max_bad_fraction=0.5, **SMALL))
        do("embed", evaluate, "embed", EvaluationConfig(**images))
        do("retrieve", evaluate, "retrieve", EvaluationConfig(**images, queries=tuple(queries), neighbours=2))
    return SimpleNamespace(
        written=written, images=readable, queries=queries, logged=logged, printed=printed, results=results, run=run
    )


def number_in(lines, words):
    """The number before some words in the only line that has them."""
    (line,) = [line for line in lines if words in line]
    return int(re.search(rf"([\d,]+) {re.escape(words)}", line)[1].replace(",", ""))


def number(text):
    return int(text.replace(",", ""))


def report(everything):
    """The lines of `check` by their names, each a list."""
    lines = collections.defaultdict(list)
    for name, text in re.findall(r"^(\S.*?)  +(\S.*)$", everything.printed["check"], re.MULTILINE):
        lines[name].append(text)
    return lines


def test_the_table_has_as_many_files_as_were_written(everything):
    assert len(everything.written) == TOTAL
    assert {each.kind.fate for each in everything.written} == {READ, BAD, UNREAD, HIDDEN, SPECIAL, AGAIN}


@pytest.mark.parametrize("command", ["check", "train", "embed", "retrieve"])
def test_each_command_says_what_is_no_image_and_why(everything, command):
    fates, logged = counted(everything.written, lambda kind: kind.fate), everything.logged[command]
    assert number_in(logged, "files are not read") == fates[UNREAD]
    assert number_in(logged, "hidden files or folders") == fates[HIDDEN]
    assert number_in(logged, "pipes, sockets or devices") == fates[SPECIAL]
    assert number_in(logged, "links lead to folders that are read already") == fates[AGAIN]
    # Of a sample, whose size is not the test's.
    for words in ("images have 1 channel(s)", "images are partly transparent", "one range for all of them may fit"):
        assert command in ("embed", "retrieve") and "range" in words or any(words in line for line in logged), words
    endings = counted(everything.written, lambda kind: kind.what, UNREAD)
    (line,) = [line for line in logged if "files are not read" in line]
    named = {ending: int(count) for count, ending in re.findall(r"(\d+) (\.\w+|without an ending|others)[,;]", line)}
    others = named.pop("others")
    assert named.items() <= endings.items() and len(named) == NAMED_ENDINGS
    assert sum(named.values()) + others == fates[UNREAD]


def test_the_report_counts_every_image_by_format_or_reason(everything):
    found, fates = report(everything), counted(everything.written, lambda kind: kind.fate)
    title = everything.printed["check"].partition("\n")[0]
    numbers = [number(each) for each in re.findall(r"([\d,]+) (?:images|can be read|are skipped|were decoded)", title)]
    assert numbers == [fates[READ] + fates[BAD], fates[READ], fates[BAD], fates[READ]]
    reasons = dict(re.match(r"([\d,]+): (.*?)(?: Received|: /|$)", line).groups()[::-1] for line in found["skipped"])
    expected = counted(everything.written, lambda kind: kind.what, BAD)
    assert {reason: number(count) for reason, count in reasons.items()} == expected
    for line, of in {
        "formats": lambda kind: kind.what,
        "channels": lambda kind: str(kind.channels),
        "bits": lambda kind: str(kind.bits) if kind.bits else "fractions, or a unit of their own",
    }.items():
        pairs = re.findall(r"(\w[^()]*?) \(([\d,]+)\)", found[line][0])
        assert {what: number(count) for what, count in pairs} == counted(everything.written, of, READ), line


def test_the_report_counts_every_oddity(everything):
    found = report(everything)
    marks = collections.Counter(
        mark for each in everything.written if each.kind.fate == READ for mark in each.kind.marks
    )
    lines = {"transparent": "alpha", "turned by EXIF": "turned", "several pages": "pages", "narrow": "narrow"}
    lines |= {"blank": "blank", "identical": "same"}
    assert {line: number(re.match(r"[\d,]+", found[line][0])[0]) for line in lines} == {
        line: marks[mark] for line, mark in lines.items()
    }


def test_training_counts_and_notes_every_image_that_it_skips(everything):
    bad = [each.path for each in everything.images if each.kind.fate == BAD]
    assert everything.results["bad_images"] == len(bad)
    assert everything.results["train_examples"] == len(everything.images)
    (note,) = [line for line in everything.printed["train"].splitlines() if "could not be read" in line]
    assert f"note: {len(bad)} of {len(everything.images)} images could not be read" in note
    shown = len(re.findall(r"/photos/", note))
    assert note.endswith(f", and {len(bad) - shown} more")


def test_embed_names_the_images_that_were_read_and_no_others(everything):
    with np.load(everything.run / "evaluation" / "features_train.npz") as saved:
        files, labels, features = saved["files"], saved["labels"], saved["features"]
    expected = [each for each in everything.images if each.kind.fate == READ]
    assert list(zip(files, labels, strict=True)) == [(each.path, each.label) for each in expected]
    assert np.isfinite(features).all()
    (note,) = [line for line in everything.printed["embed"].splitlines() if "could not be read" in line]
    bad = len(everything.images) - len(expected)
    assert f"{bad} of {len(everything.images)} images could not be read" in note


def test_retrieve_names_queries_and_neighbours_of_their_classes(everything):
    with open(everything.run / "evaluation" / "neighbours.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows[::2]] == [everything.images[int(query)].path for query in everything.queries]
    labels = {each.path: each.label for each in everything.images if each.kind.fate == READ}
    assert [labels[row["file"]] for row in rows] == [int(row["label"]) for row in rows]
    bad = len(everything.images) - len(labels)
    (note,) = [line for line in everything.printed["retrieve"].splitlines() if "could not be read" in line]
    assert f"{bad} of {len(everything.images)} images could not be read" in note
