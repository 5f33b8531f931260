"""Images per second from arrays and image files to two finished views, against others and against the decoder alone.

    python benchmarks/input_pipeline.py [--quick] [--json PATH] [--inputs NAME,NAME]

The recipe is MoCo v1's. Its peers are keras-cv's own layers in tf.data, and, if it is installed, torchvision's
transforms on PIL images in two worker processes. The candidates run in turn, several times, so that changes of the
machine's speed affect all of them alike. Each has the machine to itself: its pipeline is started for its turn and
stopped after it, or it would fill its buffers during the turns of the others. Results are medians; only the ratios are
comparable between machines.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

LARGE, SMALL = 224, 32  # sides of the views
PHOTO = (500, 375)  # width and height of a photograph, as ImageNet's typical one
# Kinds of files, and how Pillow writes them.
FILES = {"jpeg": {"quality": 90}, "png": {}, "webp": {"quality": 90}, "tiff": {}}
INPUTS = {"decoded_224": 16, "decoded_32": 256, **{f"{kind}_224": 16 for kind in FILES}}  # to the size of a batch


def photographs(count, size, seed=0):
    """Random parts of scikit-learn's two photographs, uint8 `(count, height, width, 3)`."""
    rng = np.random.default_rng(seed)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    parts = []
    for number in range(count):
        source, share = sources[number % len(sources)], rng.uniform(0.7, 1.0)
        width, height = source.width * share, source.height * share
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        parts.append(source.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)))
    return np.stack([np.asarray(part) for part in parts])


def write_files(images, folder):
    """Writes images as files of each kind, in a folder of its name: a dict of kinds to paths."""
    paths = {kind: [str(folder / kind / f"{number:03d}.{kind}") for number in range(len(images))] for kind in FILES}
    for kind, options in FILES.items():
        (folder / kind).mkdir()
        for path, image in zip(paths[kind], images, strict=True):
            Image.fromarray(image).save(path, kind, **options)
    return paths


def torchvision_candidates(photos, thumbs, paths, batches):
    """Its loaders, with their two worker processes already running; an empty dict if torchvision is not installed."""
    try:
        import torch
        from torchvision import transforms
    except ImportError as error:
        print(f"torchvision is skipped: {error}")
        return {}

    class Views(torch.utils.data.Dataset):
        """Two views of each image, a path or an array."""

        def __init__(self, images, size):
            self.images = images
            self.transform = transforms.Compose(
                [
                    transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                    transforms.RandomGrayscale(p=0.2),
                    transforms.ColorJitter(0.4, 0.4, 0.4, 0.4),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                ]
            )

        def __getitem__(self, index):
            image = self.images[index]
            image = Image.open(image).convert("RGB") if isinstance(image, str) else Image.fromarray(image)
            return self.transform(image), self.transform(image)

    loaders = {}
    files = {f"{kind}_224": each for kind, each in paths.items()}
    for name, images in {"decoded_224": photos, "decoded_32": thumbs, **files}.items():
        dataset, order = Views(images, int(name.split("_")[1])), itertools.cycle(range(len(images)))
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=batches[name], sampler=order, num_workers=2, drop_last=True, prefetch_factor=1
        )
        loaders[f"{name} torchvision"] = Workers(iter(loader))
    return loaders


class Workers:
    """Worker processes that keep running: they cannot be restarted beside TensorFlow. `iter` drains their queue."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for _ in range(2):  # one batch of each worker
            next(self.batches)
        return self.batches


def keras_cv_views(images, size, batch_size):
    """The recipe from keras-cv's own layers, as its documentation puts them together."""
    import keras_cv
    import tensorflow as tf

    stock = keras_cv.layers
    layers = [
        stock.RandomCropAndResize((size, size), crop_area_factor=(0.2, 1.0), aspect_ratio_factor=(3 / 4, 4 / 3)),
        stock.RandomApply(stock.Grayscale(output_channels=3), rate=0.2),
        stock.RandomColorJitter((0, 255), 0.4, 0.4, (0.3, 0.7), 0.4),
        stock.RandomFlip("horizontal"),
    ]

    def view(batch):
        batch = tf.cast(batch, "float32")
        for layer in layers:
            batch = layer(batch, training=True)
        return batch

    dataset = tf.data.Dataset.from_tensor_slices(images).repeat().batch(batch_size)
    dataset = dataset.map(lambda batch: (view(batch), view(batch)), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def decode_only(paths, batch_size):
    """The limit: files are read and decoded completely, and nothing else."""
    import tensorflow as tf

    def decode(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.ensure_shape(image, [PHOTO[1], PHOTO[0], 3])[0, 0]

    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat()
    return dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def tensorflow_candidates(photos, thumbs, folder, paths, batches, exact):
    """Data sets by name, `<input>_<side> <what>`."""
    from keras_moco.augment import moco_v1
    from keras_moco.data import array_source, open_source, pretrain_dataset

    views = ("query", "key")
    sources = {
        "decoded_224": array_source(photos),
        "decoded_32": array_source(thumbs),
        **{f"{kind}_224": open_source(f"folder:{folder}/{kind}") for kind in FILES},
    }
    datasets = {}
    for name, source in sources.items():
        size, batch_size = int(name.split("_")[1]), batches[name]
        settings = {"batch_size": batch_size, "entries": views}
        datasets[f"{name} keras_moco"] = pretrain_dataset(source, moco_v1(size), **settings)
        datasets[f"{name} keras_moco, cropped only"] = pretrain_dataset(source, moco_v1(size), finish=False, **settings)
        if exact and name.partition("_")[0] in ("decoded", "jpeg"):
            datasets[f"{name} keras_moco, exact"] = pretrain_dataset(source, moco_v1(size, exact=True), **settings)
    datasets["decoded_224 keras_cv"] = keras_cv_views(photos, LARGE, batches["decoded_224"])
    datasets["decoded_32 keras_cv"] = keras_cv_views(thumbs, SMALL, batches["decoded_32"])
    datasets["jpeg_224 decode_only"] = decode_only(paths["jpeg"], batches["jpeg_224"])
    return datasets


def settle(seconds):
    """Waits until nothing is being worked on any more: batches that were begun, and the buffers of the workers."""
    time.sleep(seconds)
    busy = True
    while busy:
        before = time.process_time()
        time.sleep(0.2)
        busy = time.process_time() - before > 0.02


def measure(candidates, batches, seconds, repetitions):
    """Median images per second of each candidate, an iterable of batches; of several repetitions the first warms up."""
    speeds = {name: [] for name in candidates}
    for repetition in range(repetitions):
        for name, candidate in candidates.items():
            iterator = iter(candidate)
            for _ in range(2):  # starts up; the first time, compiles
                next(iterator)
            start, count = time.perf_counter(), 0
            while count < 2 or time.perf_counter() - start < seconds:
                next(iterator)
                count += 1
            speed = count * batches[name.split(" ")[0]] / (time.perf_counter() - start)
            del iterator  # stops it
            settle(2.0 if isinstance(candidate, Workers) else 0.2)
            if repetition > 0 or repetitions == 1:
                speeds[name].append(speed)
    return {name: statistics.median(values) for name, values in speeds.items()}


def ratios_of(speeds):
    """How many times as fast as each other candidate that ran."""
    pairs = {
        "224_decoded_vs_keras_cv": ("decoded_224", "keras_cv"),
        "224_decoded_vs_torchvision": ("decoded_224", "torchvision"),
        "32_vs_keras_cv": ("decoded_32", "keras_cv"),
        "32_vs_torchvision": ("decoded_32", "torchvision"),
        **{f"224_{kind}_vs_torchvision": (f"{kind}_224", "torchvision") for kind in FILES},
        "224_jpeg_vs_decode_only": ("jpeg_224", "decode_only"),
    }
    return {
        ratio: speeds[f"{kind} keras_moco"] / speeds[f"{kind} {other}"]
        for ratio, (kind, other) in pairs.items()
        if {f"{kind} keras_moco", f"{kind} {other}"} <= speeds.keys()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one short turn of each, without the exact path: under a minute"
    )
    parser.add_argument("--json", metavar="PATH", help="also write the results to this file")
    parser.add_argument("--inputs", default="", metavar="NAMES", help=f"some of {', '.join(INPUTS)} (default all)")
    arguments = parser.parse_args()
    inputs = arguments.inputs.split(",") if arguments.inputs else list(INPUTS)
    if unknown := {*inputs} - {*INPUTS}:
        parser.error(f"--inputs must be some of {', '.join(INPUTS)}. Received: {', '.join(unknown)}.")
    if arguments.json and not Path(arguments.json).resolve().parent.is_dir():
        parser.error(f"--json must be in an existing folder. Received: {arguments.json}. Make its folder first.")
    count, seconds, repetitions = (32, 0.2, 1) if arguments.quick else (128, 1.0, 6)
    photos, thumbs = photographs(count, PHOTO), photographs(8 * count, (SMALL, SMALL))
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_files(photos, Path(scratch))
        # Before TensorFlow is imported: a process that runs its threads should not be forked.
        everything = torchvision_candidates(photos, thumbs, paths, INPUTS)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        everything |= tensorflow_candidates(photos, thumbs, scratch, paths, INPUTS, exact=not arguments.quick)
        chosen = {name: each for name, each in sorted(everything.items()) if name.partition(" ")[0] in inputs}
        speeds = measure(chosen, INPUTS, seconds, repetitions)
    for name, speed in speeds.items():
        print(f"{name:36s} {speed:9.0f} images/s")
    ratios = ratios_of(speeds)
    for name, ratio in ratios.items():
        print(f"{name:36s} {ratio:9.2f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"images_per_second": speeds, "ratios": ratios}, file, indent=2)
    sys.stdout.flush()
    os._exit(0)  # torchvision's workers and tf.data's threads need no farewell


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted. Nothing was written.")
