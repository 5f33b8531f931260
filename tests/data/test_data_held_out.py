"""A share of the images that is held out as the test split."""

import hashlib
import os
import random
from fractions import Fraction

import pytest
from PIL import Image

from keras_moco.data import open_source
from keras_moco.data.splits import is_held_out

NAMES = [f"{name}/{number}.png" for name in ("ant", "bee", "cat") for number in range(60)]
SHARE = 0.2


def write(root, names=NAMES):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1)).save(root / name)
    return f"folder:{root}"


def held_out(name, share=SHARE):
    """The law, in exact arithmetic."""
    number = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)
    return Fraction(number, 2**64) < Fraction(share)


def splits(name, share=SHARE):
    return [open_source(name, split, test_fraction=share) for split in ("train", "test")]


def names_of(source, root):
    return [os.path.relpath(path, root) for path in source.files]


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_train_and_test_are_disjoint_and_together_everything(tmp_path, kind):
    name = write(tmp_path)
    if kind == "list":
        lines = random.Random(0).sample(NAMES, len(NAMES))
        (tmp_path / "files.csv").write_text("".join(f"{each},{each[:3]}\n" for each in lines))
        name = f"list:{tmp_path}/files.csv"
    train, test = splits(name)
    found = [names_of(source, tmp_path) for source in (train, test)]
    assert sorted(found[0] + found[1]) == sorted(NAMES) and not set(found[0]) & set(found[1])
    assert sorted(found[1]) == sorted(each for each in NAMES if held_out(each))
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    for source, names in zip((train, test), found, strict=True):
        assert source.labels().tolist() == [("ant", "bee", "cat").index(each[:3]) for each in names]


def test_each_class_is_divided_by_that_share_on_average():
    for name in ("ant", "bee"):
        count = sum(is_held_out(f"{name}/{number}.jpg", SHARE) for number in range(10_000))
        # The standard deviation of a binomial is 40 here; four of them are exceeded once in 16,000 times.
        assert abs(count - 2000) < 160
        assert count == sum(held_out(f"{name}/{number}.jpg") for number in range(10_000))


def test_other_images_and_the_place_change_nothing(tmp_path):
    first = set(names_of(splits(write(tmp_path / "a"))[1], tmp_path / "a"))
    more = [*NAMES, "ant/new.png", "aardvark/0.png", "aardvark/1.png"]
    random.Random(1).shuffle(more)  # so that the operating system lists them in another order
    train, test = splits(write(tmp_path / "elsewhere", more))
    again = set(names_of(test, tmp_path / "elsewhere"))
    assert again & set(NAMES) == first and train.num_examples + test.num_examples == len(more)
    assert first < set(names_of(splits(f"folder:{tmp_path}/a", 2 * SHARE)[1], tmp_path / "a"))


def test_training_split_of_a_folder_without_test_is_divided(tmp_path):
    write(tmp_path / "train")
    train, test = splits(f"folder:{tmp_path}")
    assert names_of(test, tmp_path / "train") == sorted(filter(held_out, NAMES))
    assert train.num_examples + test.num_examples == len(NAMES)


def test_unlabelled_images_are_divided_too(tmp_path):
    names = [each.replace("/", "") for each in NAMES]
    train, test = splits(write(tmp_path, names))
    assert test.class_names is None and names_of(test, tmp_path) == sorted(filter(held_out, names))


@pytest.mark.parametrize("split", ["train", "test"])
def test_share_is_refused_where_there_is_a_test_split(tmp_path, split):
    write(tmp_path / "a")
    write(tmp_path / "b" / "train", ["ant/0.png"])
    write(tmp_path / "b" / "val", ["ant/0.png"])
    (tmp_path / "files.csv").write_text("a/ant/0.png,ant,train\na/ant/1.png,ant,test\n")
    for name, received in (
        (f"folder:{tmp_path}/a,{tmp_path}/b", f"with {tmp_path}/b/val"),
        (f"list:{tmp_path}/files.csv", "with a column `split`"),
    ):
        with pytest.raises(ValueError, match=rf"test_fraction=0\.2 for '{name}' {received}\. Omit"):
            open_source(name, split, test_fraction=SHARE)


def test_share_is_refused_where_it_divides_nothing(tmp_path):
    name = write(tmp_path, NAMES[:3])
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"test_fraction=0\.0001, which holds out 0 of 3 images of folder:"):
            open_source(name, split, test_fraction=0.0001)
    with pytest.raises(ValueError, match=r"sources than folder:, list:\. Received: test_fraction=0\.2 for 'digits'"):
        open_source("digits", test_fraction=SHARE)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"`test_fraction` must be .* Received: test_fraction={share}"):
            open_source(name, test_fraction=share)
