"""Do images of 16 bits and of 13 bands train as well as the same images as 8 bits?

    python benchmarks/deep_images.py FOLDER [--quick] [--json PATH] [--images N] [--epochs N] [--seeds N]

Fashion-MNIST from Debian's `dataset-fashion-mnist` is written into FOLDER four times: as PNG of 8 bits; as PNG of 16
bits whose values lie in 1000..4000, as of a 12-bit camera; as TIFF of 13 fractional bands, each with its own brightness
and contrast; and the same with half of the bands inverted, whose background is bright. Each set is trained by the
recipe of configs/fashion_mnist.cfg, of a smaller network, with the mean and std that `check` suggests and everything
else alike, and evaluated by kNN on the 10,000 test images. A set or a run that is there is not made again, so that the
command can be stopped and restarted.
"""

import argparse
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from keras_moco.commands.import_idx import IMAGES, LABELS, read_idx

REPOSITORY = Path(__file__).resolve().parents[1]
IDX = {"images-idx3-ubyte.gz": IMAGES, "labels-idx1-ubyte.gz": LABELS}
RECIPE = (
    "--flagfile=configs/fashion_mnist.cfg",
    "--backbone_width=16",
    "--precision=float32",
)
BANDS = 13


def gray(image, path):
    Image.fromarray(image).save(path.with_suffix(".png"))


def deep(image, path):
    values = np.round(1000 + image * (3000 / 255)).astype("uint16")
    Image.fromarray(values).save(path.with_suffix(".png"))


def bands(image, path, inverted=0):
    """Bands of reflectance times 10,000: the darkest and the brightest value of each are those of the whole set."""
    rng = np.random.default_rng(0)
    black, white = rng.uniform(0, 3000, BANDS), rng.uniform(4000, 10000, BANDS)
    black[:inverted], white[:inverted] = white[:inverted].copy(), black[:inverted].copy()
    values = black + image[..., None] / 255 * (white - black)
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "deflate", "predictor": True}
    tifffile.imwrite(path.with_suffix(".tif"), values.astype("float32"), **options)


SETS = {"8 bits": gray, "16 bits": deep, "13 bands": bands, "6 of them inverted": functools.partial(bands, inverted=6)}


def write(place, write_image, splits):
    """Writes a set as `<place>/<split>/<class>/<number>`, whole or not at all."""
    if place.exists():
        return
    unfinished = place.with_suffix(".unfinished")
    for split, (images, labels) in splits.items():
        for label in set(labels.tolist()):
            (unfinished / split / str(label)).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            write_image(image, unfinished / split / str(label) / f"{number:05}")
    unfinished.rename(place)


def command(*words):
    """Runs one of this project's programs; what it printed."""
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout


def accuracies(place, images, epochs, seed):
    """kNN top-1 in percent before and after training on a set, with the mean and std that `check` suggests."""
    run = place.with_name(f"{place.name}_seed_{seed}")
    suggested = re.findall(
        r"^--(?:channels|image_mean|image_std)=.*$", command("-m", "keras_moco", "check", f"folder:{place}"), re.M
    )
    queue = 256 * max(1, images // 2560)  # a tenth of the images, in whole batches
    settings = {
        "dataset": f"folder:{place}",
        "workdir": run,
        "queue_size": queue,
        "train_examples": images,
        "epochs": epochs,
        "knn_every_epochs": epochs,
        "seed": seed,
    }
    settings = [*RECIPE, *suggested, *(f"--{name}={value}" for name, value in settings.items())]
    command("train.py", *settings)
    results = json.loads((run / "results.json").read_text())
    return results["knn_top1_initial"], results["knn_top1"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where sets and runs are written; about 2 GB")
    parser.add_argument("--idx", type=Path, default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files")
    parser.add_argument("--quick", action="store_true", help="1,024 images, one epoch: minutes, and no result")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--images", type=int, default=20000, help="training images (default 20000)")
    parser.add_argument("--epochs", type=int, default=15, help="(default 15)")
    parser.add_argument("--seeds", type=int, default=1, help="runs on each set (default 1)")
    args = parser.parse_args()
    images, epochs = (1024, 1) if args.quick else (args.images, args.epochs)
    splits = {
        split: [read_idx(args.idx / f"{name}-{form}", magic)[:images] for form, magic in IDX.items()]
        for split, name in {"train": "train", "test": "t10k"}.items()
    }
    results = {}
    for kind, write_image in SETS.items():
        place = args.folder.resolve() / f"{kind}_{images}".replace(" ", "_")
        place.parent.mkdir(parents=True, exist_ok=True)
        write(place, write_image, splits)
        results[kind] = [accuracies(place, images, epochs, seed) for seed in range(args.seeds)]
        print(f"| {kind} |", " | ".join(f"{first:.2f} {last:.2f}" for first, last in results[kind]), "|", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
