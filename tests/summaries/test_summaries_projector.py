"""The files that TensorBoard's projector reads."""

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins import projector

from keras_moco.summaries import projector as ours
from keras_moco.summaries.projector import EmbeddedImages, write_projector

RNG = np.random.default_rng(0)


def embedded(count=7, side=8, channels=1):
    return EmbeddedImages(
        RNG.normal(size=(count, 5)).astype("float32"),
        np.arange(count) % 3 - 1,
        np.arange(count) * 11,
        RNG.integers(0, 256, (count, side, side, channels), dtype="uint8"),
    )


def read(path):
    """The configuration, and the sprite cut up into images."""
    [embedding] = text_format.Parse(path.read_text(), projector.ProjectorConfig()).embeddings
    with Image.open(path.parent / embedding.sprite.image_path) as picture:
        sprite = np.asarray(picture.convert("RGB"))
    width, height = embedding.sprite.single_image_dim
    columns, rows = sprite.shape[1] // width, sprite.shape[0] // height
    assert sprite.shape == (rows * height, columns * width, 3)
    cells = sprite.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    return embedding, cells.reshape(rows * columns, height, width, 3)


def test_points_images_and_labels_are_in_one_order_and_replace_earlier_ones(tmp_path):
    write_projector(tmp_path / "log", embedded(9))
    path = write_projector(tmp_path / "log", shown := embedded(), class_names=["ant\tlion", "bee"])
    embedding, cells = read(path)
    assert path.name == "projector_config.pbtxt" and list(embedding.tensor_shape) == [7, 5]
    np.testing.assert_allclose(np.loadtxt(path.parent / embedding.tensor_path), shown.features, rtol=1e-4)
    np.testing.assert_array_equal(cells[:7], np.repeat(shown.images, 3, axis=-1))
    assert (cells[7:] == 255).all()
    header, *labels = (path.parent / embedding.metadata_path).read_text().splitlines()
    assert header == "class\tindex"
    assert labels[:3] == ["no label\t0", "ant lion\t11", "bee\t22"] and len(labels) == 7
    assert len(list(path.parent.iterdir())) == 4


def test_names_of_files_are_a_column_whatever_is_in_them(tmp_path):
    names = ["photos/cat.png", "a\tb", "c\nd", "e\r", "caf\udce9", "\N{CAT FACE}", '"quoted']
    for class_names, before in ((None, []), (["ant\udce9", "bee"], ["class"])):
        path = write_projector(tmp_path, embedded()._replace(files=np.array(names)), class_names)
        lines = (path.parent / "labels.tsv").read_bytes().decode("utf-8").split("\n")
        header, *table = [line.split("\t") for line in lines[:-1]]
        assert header == [*before, "file", "index"] and {len(line) for line in table} == {len(header)}
        shown = [line[-2] for line in table]
        assert shown == ["photos/cat.png", "a\\tb", "c\\nd", "e\\r", "caf\\udce9", "\N{CAT FACE}", '"quoted']
        assert [line[-1] for line in table] == [str(11 * row) for row in range(7)]


def test_large_images_are_shrunk_until_the_sprite_is_within_its_limit(monkeypatch, tmp_path):
    for limit, side in ((8192, 48), (64, 21)):
        monkeypatch.setattr(ours, "LIMIT", limit)
        _, cells = read(write_projector(tmp_path, embedded(side=96, channels=3)))
        assert cells.shape == (9, side, side, 3)
