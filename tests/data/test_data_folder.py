import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.data import evaluation_dataset, open_source, plain_read_errors


def save(path, mode="RGB", size=(7, 5), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype="uint8")
    Image.fromarray(pixels, mode=None).save(path)
    return pixels


def read(source, seed=None):
    return list(source.examples(seed).as_numpy_iterator())


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    first = save(tmp_path / "bird" / "b.png", seed=1)
    second = save(tmp_path / "bird" / "deeper" / "a.PNG", size=(4, 9), seed=2)
    third = save(tmp_path / "ant" / "z.png", seed=3)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    save(tmp_path / "ant" / ".hidden.png")
    save(tmp_path / ".cache" / "x.png")
    source = open_source(f"folder:{tmp_path}")
    assert (source.num_examples, source.image_shape, source.class_names) == (
        3,
        (None, None, 3),
        ("ant", "bird"),
    )
    examples = read(source)
    for example, label, pixels in zip(examples, [0, 1, 1], [third, first, second], strict=True):
        assert example["label"] == label
        np.testing.assert_array_equal(example["image"], pixels)


def test_a_flat_folder_is_unlabelled(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names is None and source.num_classes == 0
    assert [(example["label"], example["index"]) for example in read(source)] == [(-1, 0), (-1, 1)]


def test_jpeg_bmp_and_gif_are_decoded_as_pillow_decodes_them(tmp_path):
    pixels = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype("uint8")
    for name in ("a.jpeg", "b.JPG", "c.bmp", "d.gif"):
        Image.fromarray(pixels).save(tmp_path / name)
    for example, name in zip(
        read(open_source(f"folder:{tmp_path}")), ("a.jpeg", "b.JPG", "c.bmp", "d.gif"), strict=True
    ):
        with Image.open(tmp_path / name) as image:
            expected = np.asarray(image.convert("RGB")).astype(int)
        np.testing.assert_allclose(example["image"].astype(int), expected, atol=8 if "j" in name.lower() else 0)


def test_gray_first_makes_all_gray(tmp_path):
    gray = save(tmp_path / "a.png", "L")
    colour = save(tmp_path / "b.png", "RGB", seed=1)
    with_alpha = save(tmp_path / "c.png", "LA", seed=2)
    source = open_source(f"folder:{tmp_path}")
    assert source.image_shape == (None, None, 1)
    images = [example["image"] for example in read(source)]
    np.testing.assert_array_equal(images[0][..., 0], gray)
    np.testing.assert_allclose(images[1][..., 0], colour @ [0.299, 0.587, 0.114], atol=1.01)
    np.testing.assert_array_equal(images[2][..., 0], with_alpha[..., 0])


def test_colour_first_makes_all_colour_without_alpha(tmp_path):
    save(tmp_path / "a.png", "RGB")
    gray = save(tmp_path / "b.png", "L", seed=1)
    with_alpha = save(tmp_path / "c.png", "RGBA", seed=2)
    images = [example["image"] for example in read(open_source(f"folder:{tmp_path}"))]
    np.testing.assert_array_equal(images[1], np.stack([gray] * 3, axis=-1))
    np.testing.assert_array_equal(images[2], with_alpha[..., :3])


def test_sixteen_bit_png_becomes_eight_bit(tmp_path):
    wide = np.random.default_rng(0).integers(0, 2**16, (6, 6), dtype="uint16")
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(wide[..., None]).numpy())
    (example,) = read(open_source(f"folder:{tmp_path}"))
    np.testing.assert_allclose(example["image"][..., 0], wide / 257, atol=1)


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_train_and_test_folders_are_the_splits(tmp_path, test_name):
    save(tmp_path / "train" / "cat" / "1.png")
    save(tmp_path / "train" / "cat" / "2.png")
    save(tmp_path / test_name / "cat" / "3.png")
    assert open_source(f"folder:{tmp_path}").num_examples == 2
    assert open_source(f"folder:{tmp_path}", "test").num_examples == 1


def test_a_shuffle_is_a_permutation_and_keeps_indices(tmp_path):
    pixels = [save(tmp_path / f"{name}.png", seed=name) for name in range(9)]
    examples = read(open_source(f"folder:{tmp_path}"), seed=3)
    order = [example["index"] for example in examples]
    assert sorted(order) == list(range(9)) and order != list(range(9))
    for example in examples:
        np.testing.assert_array_equal(example["image"], pixels[example["index"]])


def test_images_of_different_sizes_become_one_evaluation_batch(tmp_path):
    save(tmp_path / "a.png", size=(40, 30))
    save(tmp_path / "b.png", size=(20, 50))
    (batch,) = evaluation_dataset(open_source(f"folder:{tmp_path}"), image_size=16)
    assert batch["image"].shape == (2, 16, 16, 3) and batch["image"].dtype == tf.float32


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_broken_file_is_named(tmp_path, content):
    save(tmp_path / "a.png", size=(50, 50))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000] if content is None else content)
    reason = {b"": "an empty file", None: "a damaged, incomplete or too large PNG"}.get(
        content, "no JPEG, PNG, BMP or GIF"
    )
    with pytest.raises(ValueError) as error, plain_read_errors():
        read(open_source(f"folder:{tmp_path}", strict=True))
    assert str(error.value) == (
        f"An image file must be a complete JPEG, PNG, BMP or GIF. Received: {tmp_path}/b.png ({reason}). "
        "Repair or delete it, or go without --strict_data, which leaves it out."
    )


def test_a_broken_first_file_does_not_hide_what_the_others_are(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    save(tmp_path / "b.png", "L")
    source = open_source(f"folder:{tmp_path}", max_bad_fraction=0.5)
    assert source.image_shape == (None, None, 1) and source.num_examples == 2
    assert [example["index"] for example in read(source)] == [1]


def test_a_folder_without_one_readable_file_is_an_error_at_once(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        open_source(f"folder:{tmp_path}")
    assert str(error.value) == (
        f"An image file must be a complete JPEG, PNG, BMP or GIF. Received: {tmp_path}/a.png (no JPEG, PNG, BMP or "
        "GIF), and none of the first 2 files can be read. Repair or delete them."
    )


def test_files_with_other_endings_are_mentioned(tmp_path, caplog):
    save(tmp_path / "a.png")
    (tmp_path / "b.webp").write_bytes(b"RIFF")
    open_source(f"folder:{tmp_path}")
    assert "1 files that do not end in .jpg .jpeg .png .bmp .gif are not read, the first one: " in caplog.text
    assert "b.webp" in caplog.text


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="must be an existing folder. Received: 'folder:.*nowhere'"):
        open_source(f"folder:{tmp_path}/nowhere")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="A folder of images must hold images"):
        open_source(f"folder:{tmp_path}")


def test_an_empty_class_is_an_error(tmp_path):
    save(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="Every class sub-folder must hold images .* Received: .*dog"):
        open_source(f"folder:{tmp_path}")


def test_images_beside_classes_are_an_error(tmp_path):
    save(tmp_path / "cat" / "1.png")
    save(tmp_path / "2.png")
    with pytest.raises(ValueError, match="either class sub-folders or images, not both"):
        open_source(f"folder:{tmp_path}")


def test_a_folder_without_a_test_split_says_so(tmp_path):
    save(tmp_path / "cat" / "1.png")
    with pytest.raises(ValueError, match="must have the sub-folders `train` and `test`"):
        open_source(f"folder:{tmp_path}", "test")
    save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="one of the sub-folders test, val, validation"):
        open_source(f"folder:{tmp_path}", "test")
