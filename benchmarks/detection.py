"""Does pre-training help to find things? The same detector from the exported backbone and from random weights.

    python benchmarks/detection.py [--backbone PATH] [--quick] [--json PATH]

A RetinaNet (keras-cv) on the stages of the backbone learns to find and to name scikit-learn's handwritten digits on
noisy canvases of 64 x 64 pixels; the digits of the canvases it is measured on are those that pre-training has not
seen. Both start with the same heads, see the same canvases and train by the same settings; a seed is another set of
canvases and other heads. Measured is the average precision at an overlap (IoU) of 0.5, mean of the ten digits.
"""

import argparse
import itertools
import json
import statistics
import sys
import warnings
from pathlib import Path

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from sklearn.metrics import average_precision_score

from keras_moco.data import open_source

CLASSES = 10
STARTS = ("pre-trained", "random")
# keras-cv names its input and is then given images without the name.
warnings.filterwarnings("ignore", "The structure of `inputs` doesn't match", UserWarning)


def canvases(pictures, labels, count, rng):
    """Noisy canvases of 64 x 64 pixels with one to four of the pictures, 12 to 28 pixels wide, and where they are."""
    images = rng.normal(60, 30, (count, 64, 64, 1)).clip(0, 255).astype("float32")
    boxes = np.full((count, 4, 4), -1, "float32")  # left, top, right, bottom; -1 where there is none
    classes = np.full((count, 4), -1, "float32")
    for image, box, label in zip(images, boxes, classes, strict=True):
        quarters = rng.permutation([(0, 0), (0, 32), (32, 0), (32, 32)])[: rng.integers(1, 5)]
        for place, corner in enumerate(quarters):
            side, chosen = rng.integers(12, 29), rng.integers(len(labels))
            y, x = corner + rng.integers(0, 33 - side, 2)
            below = image[y : y + side, x : x + side]
            below[:] = np.maximum(below, tf.image.resize(pictures[chosen], (side, side)))
            box[place], label[place] = (x, y, x + side, y + side), labels[chosen]
    return images, {"boxes": boxes, "classes": classes}


def detector(backbone, classes, width=32):
    """RetinaNet with a feature pyramid on the last three stages: strides 2, 4, 8 with the CIFAR stem."""
    backbone.pyramid_level_inputs = {"P3": "layer2", "P4": "layer3", "P5": "layer4"}  # what keras-cv asks for
    stages = {
        level: keras.Input((None, None, backbone.get_layer(name).output.shape[-1]), name=level)
        for level, name in backbone.pyramid_level_inputs.items()
    }
    p3, p4, p5 = (keras.layers.Conv2D(width, 1)(stage) for stage in stages.values())
    p4 = p4 + keras.layers.UpSampling2D()(p5)
    p3 = p3 + keras.layers.UpSampling2D()(p4)
    pyramid = keras.Model(stages, [keras.layers.Conv2D(width, 3, padding="same")(level) for level in (p3, p4, p5)])

    def head(channels, bias):
        hidden = [keras.layers.Conv2D(width, 3, padding="same", activation="relu") for _ in range(2)]
        return keras.Sequential([*hidden, keras.layers.Conv2D(channels, 3, padding="same", bias_initializer=bias)])

    scales = [1, 2 ** (1 / 3), 2 ** (2 / 3)]
    rare = keras.initializers.Constant(-np.log(99))  # at first 1 % for every class, as in the paper (Lin et al. 2017)
    return keras_cv.models.RetinaNet(
        backbone,
        num_classes=classes,
        bounding_box_format="xyxy",
        anchor_generator=keras_cv.layers.AnchorGenerator(
            "xyxy", sizes=[8.0, 16.0, 32.0], scales=scales, aspect_ratios=[1.0], strides=[2, 4, 8], clip_boxes=True
        ),
        feature_pyramid=pyramid,
        classification_head=head(len(scales) * classes, rare),
        box_head=head(len(scales) * 4, "zeros"),
        prediction_decoder=keras_cv.layers.NonMaxSuppression("xyxy", from_logits=True, confidence_threshold=0.05),
    )


def hits(found, truth, threshold=0.5):
    """Which of the boxes `found` (f, 4), the surest first, cover one of `truth` (t, 4) that none before has covered.

    Covered means intersection over union of at least `threshold`; the best of those still free counts, as in COCO.
    """
    overlaps = np.array(keras_cv.bounding_box.compute_iou(found, truth, "xyxy"))
    hit = np.zeros(len(found), bool)
    for index, overlap in enumerate(overlaps):
        best = overlap.argmax()
        if overlap[best] >= threshold:
            hit[index] = True
            overlaps[:, best] = 0  # found once
    return hit


def average_precision(truth, found, classes=CLASSES):
    """Area under precision over recall in percent, without interpolation, mean over the classes that occur.

    Args:
        truth: dict of `boxes` (n, t, 4) and `classes` (n, t), `-1` where there is none.
        found: dict of `boxes` (n, f, 4), `classes` and `confidence` (n, f), as `RetinaNet.predict` gives them.
    """
    areas = []
    for label in range(classes):
        total = np.sum(truth["classes"] == label)
        confidences, hit = [np.zeros(0)], [np.zeros(0, bool)]
        for image in range(len(truth["classes"])):
            there = truth["boxes"][image][truth["classes"][image] == label]
            said = np.flatnonzero(found["classes"][image] == label)
            said = said[np.argsort(-found["confidence"][image][said], kind="stable")]
            confidences.append(found["confidence"][image][said])
            both = len(said) and len(there)
            hit.append(hits(found["boxes"][image][said], there) if both else np.zeros(len(said), bool))
        confidences, hit = np.concatenate(confidences), np.concatenate(hit)
        if total:
            # scikit-learn's recall is of those that were found at all.
            areas.append(average_precision_score(hit, confidences) * hit.sum() / total if hit.any() else 0.0)
    return 100 * float(np.mean(areas))


def measure(start, train, test, steps):
    """Average precision on `test` of a detector trained on `train`, 8 canvases per step."""
    model = detector(start, CLASSES)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=10.0)
    model.compile(optimizer=optimizer, box_loss="huber", classification_loss="focal", metrics=None)
    model.fit(*train, batch_size=8, epochs=steps * 8 // len(train[0]), verbose=0)
    return average_precision(test[1], model.predict(test[0], batch_size=32, verbose=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="runs/quickstart/export/backbone.keras", help="what export has written")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    if not Path(arguments.backbone).exists():
        sys.exit(f"error: --backbone must be a file. Received: {arguments.backbone}. `make quickstart` writes one.")
    seeds, sizes, steps, tested = ([0], [32], 20, 32) if arguments.quick else (range(3), [64, 256], 320, 256)

    digits = {split: open_source("digits", split).arrays() for split in ("train", "test")}
    report = {f"{size} canvases, {start}": [] for size in sizes for start in STARTS}
    for seed, size, start in itertools.product(seeds, sizes, STARTS):
        rng = np.random.default_rng(seed)
        train, test = canvases(*digits["train"], size, rng), canvases(*digits["test"], tested, rng)
        keras.utils.set_random_seed(seed)
        backbone = keras.models.load_model(arguments.backbone)
        if start == "random":
            backbone = keras.models.clone_model(backbone)
        keras.utils.set_random_seed(seed)  # the same heads for both
        report[f"{size} canvases, {start}"].append(measure(backbone, train, test, steps))
        print(f"seed {seed}, {size} canvases, {start}: {report[f'{size} canvases, {start}'][-1]:.1f} %", flush=True)
    for name, values in report.items():
        print(f"{name}: {statistics.mean(values):.1f} % ({min(values):.1f} to {max(values):.1f})")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
