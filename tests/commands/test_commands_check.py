"""The command that looks at images before training, on a folder with one of every fault."""

import contextlib
import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from keras_moco.commands.check import main
from keras_moco.commands.dry_run import dry_run
from keras_moco.config import Config
from tests.augment.oracles import PHOTOS
from tests.data.written import encoded, record, smooth, write_records
from tests.image_formats.written import array_file
from tests.run_command import parsed

PHOTO = PHOTOS[0, 100:260, 100:300]  # 160 x 200 pixels


def faults():
    """Names to the contents of files: good images, some that are odd, four that cannot be read."""
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    small = np.asarray(Image.fromarray(PHOTO).resize((100, 80)))
    with io.BytesIO() as file:
        frames = [Image.fromarray(smooth(number, 64, 48)) for number in (80, 81)]
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
        animation = file.getvalue()
    photo, deep = encoded(PHOTO, "JPEG", quality=95), np.arange(3000, dtype="uint16").reshape(60, 50) * 20
    files = {f"cats/{number}.png": encoded(smooth(number, 50 + number, 60), "PNG") for number in range(8)}
    return files | {
        "cats/photo.jpg": photo,
        "dogs/same_photo.jpg": photo,
        "dogs/half_photo.jpg": encoded(small, "JPEG", quality=70),
        "dogs/turned.jpg": encoded(smooth(20, 40, 70), "JPEG", exif=exif),
        "dogs/opacity.png": encoded(
            np.dstack([smooth(21, 64, 64), (np.arange(4096).reshape(64, 64) // 16).astype("uint8")]), "PNG"
        ),
        "dogs/animation.gif": animation,
        "dogs/deep.png": encoded(deep, "PNG"),
        "dogs/blank.png": encoded(np.full((64, 64, 3), 200, "uint8"), "PNG"),
        "dogs/panorama.png": encoded(smooth(22, 30, 300), "PNG"),
        "one/alone.png": encoded(smooth(23, 64, 64), "PNG"),
        "dogs/broken.jpg": photo[: len(photo) // 2],
        "dogs/empty.jpg": b"",
        "dogs/empty2.jpg": b"",
        "dogs/text.png": b"no image",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "photos"
    for name, content in faults().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def check(source, *more):
    """Runs the command on a source: the lines of the report by their names, and those of the flagfile."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([source, *more]) == 0
    report, _, flags = printed.getvalue().partition("\n# Settings that fit")
    lines = {"title": report.partition("\n")[0]}
    for name, text in re.findall(r"^(\S.*?)  +(\S.*)$", report, re.MULTILINE):
        lines[name] = f"{lines[name]}\n{text}" if name in lines else text
    return lines, re.findall(r"^--.*$", flags, re.MULTILINE)


@pytest.fixture(scope="module")
def report(folder):
    return check(f"folder:{folder}")[0]


def test_every_fault_is_counted_and_named(folder, report):
    found = report
    assert "22 images, of which 18 can be read and 4 are skipped; 18 were decoded" in found["title"]
    assert found["formats"] == "PNG (13), JPEG (4), GIF (1)"
    assert found["channels"] == "3 (17), 1 (1); all become 3 (--channels)"
    assert found["bits"] == "8 (17), 16 (1)"
    for line, name in {
        "transparent": "dogs/opacity.png",
        "turned by EXIF": "dogs/turned.jpg",
        "several pages": "dogs/animation.gif",
        "blank": "dogs/blank.png",
        "narrow": "dogs/panorama.png",
    }.items():
        assert found[line] == f"1: {folder / name}"
    assert found["height"] == "30 to 160 pixels, median 58.5"
    assert found["width"] == "40 to 300 pixels, median 60"
    assert found["identical"] == f"2 in 1 group: {folder / 'cats/photo.jpg'} = {folder / 'dogs/same_photo.jpg'}"
    assert found["nearly identical"].endswith(f"{folder / 'cats/photo.jpg'} = {folder / 'dogs/half_photo.jpg'}")
    assert found["nearly identical"].startswith("2 in 1 group: ")
    assert found["classes"] == "3, from 1 image (one) to 9 (cats); 0 without a label"


def test_skipped_images_are_counted_by_their_reason(folder, report):
    assert sorted(report["skipped"].splitlines()) == [
        f"1: a damaged, incomplete or too large JPEG: {folder / 'dogs/broken.jpg'}",
        f"1: of no known format: {folder / 'dogs/text.png'}",
        f"2: an empty file: {folder / 'dogs/empty.jpg'}, {folder / 'dogs/empty2.jpg'}",
    ]


def test_all_files_are_looked_at_however_few_are_decoded(folder, report):
    few, flags = check(f"folder:{folder}", "--sample=1")
    # That a JPEG breaks off is found by decoding it.
    assert "22 images, of which 19 can be read and 3 are skipped; 1 were decoded" in few["title"]
    for line in ("transparent", "turned by EXIF", "several pages", "identical", "narrow"):
        assert few[line] == report[line]
    assert "--train_examples=22" in flags


def test_the_settings_are_a_flagfile_of_a_run(folder, tmp_path):
    _, flags = check(f"folder:{folder}", "--channels=1", "--background=0")
    (tmp_path / "photos.cfg").write_text("\n".join(flags))
    config, _ = parsed(Config, [f"--flagfile={tmp_path / 'photos.cfg'}", "--dry_run", "--backbone=resnet10"])
    assert config.dataset == f"folder:{folder}" and config.channels == 1 and config.background == 0
    assert (config.image_size, config.stem, config.batch_size, config.queue_size) == (32, "cifar", 8, 8)
    assert len(config.image_mean) == len(config.image_std) == 1
    assert config.knn_k == 1  # fewer than the smallest class has, but at least one
    dry_run(config, replicas=1)


def test_values_with_a_range_are_suggested_with_it(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (20, 16, 16), dtype="uint16")
    for number, image in enumerate(values):
        (tmp_path / f"{number:02}.png").write_bytes(encoded(image, "PNG"))
    found, flags = check(f"folder:{tmp_path}")
    assert "--value_range=0,4095" in flags and "--channels=1" in flags
    assert f"--image_mean={values.mean() / 4095:.3f}" in flags
    assert f"--image_std={values.std() / 4095:.3f}" in flags
    _, flags = check(f"folder:{tmp_path}", "--value_range=full")
    assert f"--image_mean={values.mean() / 65535:.3f}" in flags
    assert not any(flag.startswith("--value_range") for flag in flags)


def test_bands_have_a_range_mean_and_std_each(tmp_path):
    units = np.array([[0.0, 100.0], [-5.0, 5.0], [1000.0, 9000.0], [3.0, 4.0]])  # the ends of each band
    shares = np.random.default_rng(0).random((12, 16, 16, 4)).astype("float32")
    shares[0, 0, 0], shares[0, 0, 1] = 0, 1
    images = (units[:, 0] + shares * (units[:, 1] - units[:, 0])).astype("float32")
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number:02}.npy", image)
    found, flags = check(f"folder:{tmp_path}")
    assert "--value_range=0,100/-5,5/1000,9000/3,4" in flags
    assert "0 to 100, -5 to 5, 1000 to 9000, 3 to 4 in its 4 channels" in found["value range"]
    means = ",".join(f"{mean:.3f}" for mean in shares.mean(axis=(0, 1, 2)))
    assert f"--image_mean={means}" in flags


def test_percentiles_are_suggested_where_few_bright_pixels_take_most_of_the_range(tmp_path):
    dark = [smooth(number, 40, 50)[..., 0].astype("uint16") * 4 for number in range(20)]
    dark.append((dark[3] * 0.9).astype("uint16"))  # a copy with less contrast
    for number, image in enumerate(dark):
        image[0, :4] = 65535  # 0.2 % of the pixels
        (tmp_path / f"{number:02}.png").write_bytes(encoded(image, "PNG"))
    found, flags = check(f"folder:{tmp_path}")
    low, high = np.percentile(dark, (0.5, 99.5))
    scaled = np.clip((np.array(dark) - low) / (high - low), 0, 1)
    assert "--value_range=percentile:0.5,99.5" in flags
    assert found["value range"].startswith(f"{low:g} to {high:g} become 0..255")
    for name, expected in (("image_mean", scaled.mean()), ("image_std", scaled.std())):
        (text,) = (flag.partition("=")[2] for flag in flags if flag.startswith(f"--{name}="))
        assert float(text) == pytest.approx(expected, abs=0.002)
    assert found["nearly identical"] == f"2 in 1 group: {tmp_path / '03.png'} = {tmp_path / '20.png'}"
    found, flags = check(f"folder:{tmp_path}", "--value_range=0,65535")  # which was asked for
    assert "--value_range=0,65535" in flags
    assert found["nearly identical"].startswith("21 in 1 group")  # all that is left of each is the bright corner


def test_records_are_looked_at_too(tmp_path):
    images = [encoded(smooth(number, 40, 50), "JPEG") for number in range(9)]
    write_records(tmp_path / "train-0", [*map(record, images), record(images[0]), record(images[1][:300]), record()])
    found, flags = check(f"tfrecord:{tmp_path}/train-*")
    assert "12 images, of which 10 can be read and 2 are skipped" in found["title"]
    first, second = (f"image {number} (record {number} of {tmp_path}/train-0)" for number in (0, 9))
    assert found["identical"] == f"2 in 1 group: {first} = {second}"
    assert found["classes"] == "no labels" and not any(flag.startswith("--knn_k") for flag in flags)


def test_images_in_memory_are_looked_at_too():
    found, flags = check("digits", "--split=test")
    assert "360 images, of which 360 can be read" in found["title"] and found["formats"] == "in memory (360)"
    assert flags == []  # they would be for the images of another split


def test_too_few_images_for_a_run_are_reported_all_the_same(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(encoded(smooth(0, 40, 50), "PNG"))
    assert main([f"folder:{tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "1 image, of which 1 can be read" in printed and "No settings fit these images. There must be two" in printed


def test_a_picture_is_written_only_on_request(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, arguments = tmp_path / "check.png", ["digits", "--sample=5"]
    assert main(arguments) == 0 and os.listdir(tmp_path) == []
    out.write_bytes(b"mine")
    assert main([*arguments, f"--out={out}"]) == 2 and out.read_bytes() == b"mine"
    assert f"Received: {out}, which exists" in capsys.readouterr().err
    assert main([*arguments, f"--out={out}", "--overwrite"]) == 0
    with Image.open(out) as image:
        assert image.format == "PNG" and min(image.size) >= 500


def test_images_of_which_none_of_the_sample_can_be_decoded_are_drawn(tmp_path):
    photo = encoded(PHOTO, "JPEG", quality=95)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo[: len(photo) // 2])
    found, flags = check(f"folder:{tmp_path}", "--sample=1", f"--out={tmp_path / 'check.png'}")
    assert "of which 1 can be read and 1 are skipped; 0 were decoded" in found["title"] and "mean" not in found
    assert (tmp_path / "check.png").exists()


def test_the_size_of_an_image_needs_no_decoding(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype="uint8")
    for number, image in enumerate(values):
        (tmp_path / f"{number}.npy").write_bytes(array_file(image))
    found, _ = check(f"folder:{tmp_path}", "--sample=1")
    assert found["formats"] == "NumPy (3)"
    assert found["height"] == "40 to 40 pixels, median 40"


def test_a_wrong_flag_is_refused_before_anything_is_opened(capsys, monkeypatch):
    monkeypatch.setattr("keras_moco.commands.check.open_source", None)  # calling it would be a TypeError
    for flag in ("--sample=0", "--channels=0", "--background=256", "--value_range=1", "--out=x.jpg"):
        assert main(["digits", flag]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("check: ") and "Received: " in err


def test_a_wrong_source_is_refused(tmp_path, capsys):
    for source in ("photos", f"folder:{tmp_path}"):
        assert main([source]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("check: ")
