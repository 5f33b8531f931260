"""Modes that leave the encoder as it is: kNN, linear classifiers, measures."""

import numpy as np

from keras_moco import data
from keras_moco.augment import moco_v2
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
    representation_measures,
)
from keras_moco.evaluation.knn import USUAL_K, VoterSearch, told_usual_k, usual_k
from keras_moco.evaluation.modes.base import IMAGES, mode
from keras_moco.evaluation.modes.report import draw_confusion_of, drop_outdated, rounded, told, unfinished, verbosity
from keras_moco.evaluation.pictures import lacks_for_projection
from keras_moco.runs.build import build_augmentation

MEASURED_IMAGES = 2048


@mode(*IMAGES, "features", "knn_k", "knn_temperature", "seed", "pictures")
def knn(subject):
    """Weighted k-nearest-neighbour accuracy, for every k and temperature from one search."""
    config = subject.config
    train, test = subject.labelled()
    ks = config.knn_k or (usual_k(train.labels()),)
    if max(ks) > train.num_examples:
        raise UserError(
            "`knn_k` must not exceed the number of training images, which vote. "
            f"Received: knn_k={max(ks)}, {train.num_examples} images in {subject.dataset}. Lower --knn_k."
        )
    if not config.knn_k and max(ks) < USUAL_K:
        print(told_usual_k(*ks))
    extractor = FeatureExtractor(subject.features_by_level)
    queries = extractor.extract(subject.dataset_of(test))
    searches = {level: VoterSearch(found, train.num_classes, max(ks)) for level, found in queries.items()}
    # The bank streams past: of ImageNet's training images, features of 2,048 numbers would take 10 GB.
    for block in extractor.blocks(subject.dataset_of(train)):
        for level, search in searches.items():
            search.add(block[level])
    for level, search in searches.items():
        _vote(subject, level, ks, queries[level], search.found())


def _vote(subject, level, ks, queries, voters):
    """Counts the votes at one level, for every k and temperature."""
    config, classes = subject.config, subject.train.num_classes
    found, votes = {}, None
    for k in ks:
        for temperature in config.knn_temperature:
            shares = knn_vote(voters.similarity[:, :k], voters.labels[:, :k], classes, temperature)
            found[k, temperature] = accuracy = accuracy_of(shares, queries.labels)
            votes = shares if votes is None else votes
            print(f"kNN (k={k}, temperature {temperature:g}) on the {level}: {told(accuracy)}", flush=True)
    first, *_ = found
    figures = {f"k={k}, temperature={temperature:g}": rounded(found[k, temperature]) for k, temperature in found}
    subject.record(**{f"knn_top1_{level}": round(found[first].top1, 2), f"knn_{level}": figures})
    if config.pictures:
        draw_confusion_of(subject, f"knn_{level}", queries.labels, votes.argmax(axis=1))
        path, lacking = subject.place(f"projection_{level}.png"), lacks_for_projection(queries.features)
        if lacking:
            print(f"note: {path} is not drawn, of {lacking}")
        else:
            draw_projection(path, queries.features, queries.labels, subject.train.class_names, seed=config.seed)


@mode(*IMAGES, "features", "linear_on", "rates", "epochs", "crop_min_area", "seed", "pictures")
def linear(subject):
    """Linear classifiers by SGD, as the authors train them, for several learning rates at once."""
    config = subject.config
    unused = {"images": "features", "features": "crop_min_area"}[config.linear_on]
    if unused in config.changed():
        raise UserError(
            f"`{unused}` must not be given with linear_on={config.linear_on}, which has no use for it. "
            f"Received: {unused}={getattr(config, unused)}. Leave out --{unused}, or change --linear_on."
        )
    train, test = subject.labelled()
    settings = {"rates": config.rates, "epochs": config.epochs or 100, "batch_size": config.batch_size}
    settings |= {"seed": config.seed, "verbose": verbosity()}
    drop_outdated(subject, "linear")
    kept = unfinished(subject, "linear") if config.linear_on == "images" else None
    if config.linear_on == "features":
        with frozen(subject.encoder):
            features = (extract_features(subject.features, subject.dataset_of(split)) for split in (train, test))
            sweep = linear_sweep(*features, num_classes=train.num_classes, **settings)
    else:
        settings |= {"crop_scale": (config.crop_min_area, 1.0), "unfinished": kept}
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
    if kept:
        kept.delete()
    if config.pictures:
        draw_confusion_of(subject, "linear", sweep.labels, sweep.predicted)


@mode(*IMAGES, "features")
def logistic(subject):
    """Logistic regression on the frozen features: deterministic, and fast on small sets."""
    train, test = subject.labelled()
    with frozen(subject.encoder):
        features = (extract_features(subject.features, subject.dataset_of(split)) for split in (train, test))
        probe = linear_accuracy(*features)
    print(f"logistic regression: top-1 {probe.accuracy:.2f} % (C={probe.c:g}); no bit of the encoder changed")
    subject.record(logistic_top1=round(probe.accuracy, 2), logistic_c=probe.c)


@mode(*IMAGES, "split", "features", "seed")
def measures(subject):
    """Alignment, uniformity, spread and effective rank, which need no labels."""
    source, size = subject.images, subject.image_size
    augmentation = build_augmentation(subject.recipe) if subject.recipe else moco_v2(size)
    batch = min(subject.config.batch_size, source.num_examples)
    seed, entries = subject.config.seed, ("query", "key")
    pairs = data.pretrain_dataset(in_file_order(source), augmentation, batch, seed, entries=entries)
    pairs = list(pairs.take(min(source.num_examples, MEASURED_IMAGES) // batch))
    extractor = FeatureExtractor(subject.features_by_level)
    nothing = {"label": np.zeros(batch), "index": np.zeros(batch)}
    views = [extractor.extract([{"image": pair[name], **nothing} for pair in pairs]) for name in ("query", "key")]
    for level in subject.levels:
        found = representation_measures(*(view[level].features for view in views))
        print(f"{level}: " + ", ".join(f"{name} {value:.4g}" for name, value in found._asdict().items()))
        figures = {name: round(value, 4) for name, value in found._asdict().items()}
        subject.record(**{f"measures_{source.split}_{level}": figures})
