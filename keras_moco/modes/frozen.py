"""Modes that leave the encoder as it is: kNN, linear classifiers, measures."""

import numpy as np

from keras_moco import data
from keras_moco.augment import moco_v2
from keras_moco.building import build_augmentation
from keras_moco.data.subset import in_file_order
from keras_moco.errors import UserError
from keras_moco.evaluation import (
    FeatureExtractor,
    accuracy_of,
    draw_projection,
    extract_features,
    frozen,
    knn_vote,
    linear_accuracy,
    linear_sweep,
    linear_sweep_on_images,
    nearest_voters,
    representation_measures,
)
from keras_moco.modes.report import backup, draw_confusion_of, rounded, told, verbosity

MEASURED_IMAGES = 2048


def knn(subject):
    """Weighted k-nearest-neighbour accuracy, for every k and temperature from one search."""
    config = subject.config
    train, test = subject.labelled()
    if max(config.knn_k) > train.num_examples:
        raise UserError(
            "`knn_k` must not exceed the number of training images, which vote. "
            f"Received: knn_k={max(config.knn_k)}, {train.num_examples} images in {subject.dataset}. Lower --knn_k."
        )
    for level, embed in subject.levels.items():
        extractor = FeatureExtractor(embed)
        queries = extractor.extract(subject.dataset_of(test))
        # The bank streams past: of ImageNet's training images, features of 2,048 numbers would take 10 GB.
        blocks = extractor.blocks(subject.dataset_of(train))
        voters = nearest_voters(blocks, queries, train.num_classes, max(config.knn_k))
        found, votes = {}, None
        for k in config.knn_k:
            for temperature in config.knn_temperature:
                shares = knn_vote(voters.similarity[:, :k], voters.labels[:, :k], train.num_classes, temperature)
                found[k, temperature] = accuracy = accuracy_of(shares, queries.labels)
                votes = shares if votes is None else votes
                print(f"kNN (k={k}, temperature {temperature:g}) on the {level}: {told(accuracy)}", flush=True)
        first, *_ = found
        figures = {f"k={k}, temperature={temperature:g}": rounded(found[k, temperature]) for k, temperature in found}
        subject.record(**{f"knn_top1_{level}": round(found[first].top1, 2), f"knn_{level}": figures})
        if config.pictures:
            draw_confusion_of(subject, f"knn_{level}", queries.labels, votes.argmax(axis=1))
            path = subject.place(f"projection_{level}.png")
            draw_projection(path, queries.features, queries.labels, train.class_names, seed=config.seed)


def linear(subject):
    """Linear classifiers by SGD, as the authors train them, for several learning rates at once."""
    config = subject.config
    train, test = subject.labelled()
    settings = {"rates": config.rates, "epochs": config.epochs or 100, "batch_size": config.batch_size}
    settings |= {"seed": config.seed, "verbose": verbosity()}
    if config.linear_on == "features":
        with frozen(subject.encoder):
            features = (extract_features(subject.features, subject.dataset_of(split)) for split in (train, test))
            sweep = linear_sweep(*features, num_classes=train.num_classes, **settings)
    else:
        settings |= {"crop_scale": (config.crop_min_area, 1.0), "callbacks": [backup(subject, "linear")]}
        sweep = linear_sweep_on_images(subject.backbone(), train, test, subject.image_size, **settings)
    for rate, accuracy in sweep.tests.items():
        chosen = f", {sweep.held_out[rate]:.2f} % held out" if sweep.held_out else ""
        print(f"linear, learning rate {rate:g}: {told(accuracy)}{chosen}")
    print(f"linear: top-1 {sweep.accuracy.top1:.2f} % (learning rate {sweep.rate:g}); no bit of the encoder changed")
    subject.record(
        linear_top1=round(sweep.accuracy.top1, 2),
        linear_top5=round(sweep.accuracy.top5, 2),
        linear_rate=sweep.rate,
        linear_on=config.linear_on,
        linear_epochs=settings["epochs"],
        linear_rates={f"{rate:g}": rounded(accuracy) for rate, accuracy in sweep.tests.items()},
    )
    if config.pictures:
        draw_confusion_of(subject, "linear", sweep.labels, sweep.predicted)


def logistic(subject):
    """Logistic regression on the frozen features: deterministic, and fast on small sets."""
    train, test = subject.labelled()
    with frozen(subject.encoder):
        features = (extract_features(subject.features, subject.dataset_of(split)) for split in (train, test))
        probe = linear_accuracy(*features)
    print(f"logistic regression: top-1 {probe.accuracy:.2f} % (C={probe.c:g}); no bit of the encoder changed")
    subject.record(logistic_top1=round(probe.accuracy, 2), logistic_c=probe.c)


def measures(subject):
    """Alignment, uniformity, spread and effective rank, which need no labels."""
    source, size = subject.images, subject.image_size
    augmentation = build_augmentation(subject.recipe) if subject.recipe else moco_v2(size)
    batch = min(subject.config.batch_size, source.num_examples)
    seed, entries = subject.config.seed, ("query", "key")
    pairs = data.pretrain_dataset(in_file_order(source), augmentation, batch, seed, entries=entries)
    pairs = list(pairs.take(min(source.num_examples, MEASURED_IMAGES) // batch))
    for level, function in subject.levels.items():
        extractor = FeatureExtractor(function)
        views = []
        for name in ("query", "key"):
            images = [{"image": pair[name], "label": np.zeros(batch), "index": np.zeros(batch)} for pair in pairs]
            views.append(extractor.extract(images).features)
        found = representation_measures(*views)
        print(f"{level}: " + ", ".join(f"{name} {value:.4g}" for name, value in found._asdict().items()))
        subject.record(**{f"measures_{level}": {name: round(value, 4) for name, value in found._asdict().items()}})
