"""The modes of evaluate.py: each takes a subject, prints what it finds, and records it."""

import statistics
import sys
import zlib

import keras
import numpy as np

from keras_moco import data
from keras_moco.augment import moco_v2
from keras_moco.building import build_augmentation
from keras_moco.durable import replace_when_written
from keras_moco.evaluation import (
    FeatureExtractor,
    accuracy_of,
    draw_confusion,
    draw_label_fractions,
    draw_neighbours,
    draw_projection,
    extract_features,
    fine_tune,
    fresh_copy,
    frozen,
    knn_votes,
    linear_accuracy,
    linear_sweep,
    linear_sweep_on_images,
    nearest_neighbours,
    predict_labelled,
    representation_measures,
)
from keras_moco.export import export_backbone
from keras_moco.model_card import write_card
from keras_moco.subject import Subject

MEASURED_IMAGES = 2048


@data.plain_read_errors()
def evaluate(mode, config):
    """Evaluates an encoder; what `evaluate.py` does.

    Args:
        mode: a key of `MODES`.
        config: `EvaluationConfig`.

    Raises:
        ValueError: if there is no such mode, or settings, model and images do not fit each other.
    """
    if mode not in MODES:
        raise ValueError(
            f"evaluate.py must be given one mode of {', '.join(MODES)}. Received: {mode or 'none'}. "
            "Write for example: python evaluate.py knn --workdir=runs/quickstart."
        )
    subject = Subject(config)
    MODES[mode](subject)
    write_card(subject)
    print(f"results    {subject.results.path}\nmodel card {subject.card}")


def knn(subject):
    """Weighted k-nearest-neighbour accuracy, for every k and temperature from one search."""
    config = subject.config
    train, test = subject.labelled()
    if max(config.knn_k) > train.num_examples:
        raise ValueError(
            "`knn_k` must not exceed the number of training images, which vote. "
            f"Received: knn_k={max(config.knn_k)}, {train.num_examples} images in {subject.dataset}. Lower --knn_k."
        )
    for level, embed in subject.levels.items():
        extractor = FeatureExtractor(embed)
        queries = extractor.extract(subject.dataset_of(test))
        labels = []

        def bank(extractor=extractor, labels=labels):
            for block in extractor.blocks(subject.dataset_of(train)):
                labels.append(block.labels)
                yield block.features

        found = nearest_neighbours(bank(), queries.features, max(config.knn_k))
        voters = np.concatenate(labels)[found.rows]
        figures = {}
        for k in config.knn_k:
            for temperature in config.knn_temperature:
                votes = knn_votes(found.similarity[:, :k], voters[:, :k], train.num_classes, temperature)
                accuracy = accuracy_of(votes, queries.labels)
                print(
                    f"kNN (k={k}, temperature {temperature:g}) on the {level}: "
                    f"top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %",
                    flush=True,
                )
                figures[f"k={k}, temperature={temperature:g}"] = _rounded(accuracy)
                if len(figures) == 1:
                    first, predicted = accuracy, votes.argmax(axis=1)
        subject.record(**{f"knn_top1_{level}": round(first.top1, 2), f"knn_{level}": figures})
        if config.pictures:
            _draw_confusion(subject, f"knn_{level}", queries.labels, predicted)
            path = _place(subject, f"projection_{level}.png")
            draw_projection(path, queries.features, queries.labels, train.class_names, seed=config.seed)


def linear(subject):
    """Linear classifiers by SGD, as the authors train them, for several learning rates at once."""
    config = subject.config
    train, test = subject.labelled()
    settings = {"rates": config.rates, "epochs": config.epochs or 100, "batch_size": config.batch_size}
    settings |= {"seed": config.seed, "verbose": "auto" if sys.stdout.isatty() else 2}
    if config.linear_on == "features":
        with frozen(subject.encoder):
            features = (extract_features(subject.features, subject.dataset_of(split)) for split in (train, test))
            sweep = linear_sweep(*features, train.num_classes, **settings)
    else:
        settings |= {"crop_scale": (config.crop_min_area, 1.0), "callbacks": [_backup(subject, "linear")]}
        sweep = linear_sweep_on_images(subject.backbone(), train, test, subject.image_size, **settings)
    for rate, accuracy in sweep.tests.items():
        chosen = f", {sweep.held_out[rate]:.2f} % held out" if sweep.held_out else ""
        print(f"linear, learning rate {rate:g}: top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %{chosen}")
    print(f"linear: top-1 {sweep.accuracy.top1:.2f} % (learning rate {sweep.rate:g}); no bit of the encoder changed")
    subject.record(
        linear_top1=round(sweep.accuracy.top1, 2),
        linear_top5=round(sweep.accuracy.top5, 2),
        linear_rate=sweep.rate,
        linear_on=config.linear_on,
        linear_epochs=settings["epochs"],
        linear_rates={f"{rate:g}": _rounded(accuracy) for rate, accuracy in sweep.tests.items()},
    )
    if config.pictures:
        _draw_confusion(subject, "linear", sweep.labels, sweep.predicted)


def logistic(subject):
    """Logistic regression on the frozen features: deterministic, and fast on small sets."""
    train, test = subject.labelled()
    with frozen(subject.encoder):
        features = (extract_features(subject.features, subject.dataset_of(split)) for split in (train, test))
        probe = linear_accuracy(*features)
    print(f"logistic regression: top-1 {probe.accuracy:.2f} % (C={probe.c:g}); no bit of the encoder changed")
    subject.record(logistic_top1=round(probe.accuracy, 2), logistic_c=probe.c)


def semi(subject):
    """Fine-tuning on a few percent of the labels, the same for every class, beside the same network from scratch."""
    config = subject.config
    train, test = subject.labelled()
    labels = train.labels()
    networks = {"pre-trained": lambda seed: subject.backbone()}
    if config.random_weights:
        fresh_copy(subject.backbone())  # says at once if it cannot be done
        networks["random weights"] = lambda seed: fresh_copy(subject.backbone(), seed)
    shares = {
        share: [data.balanced_indices(labels, share / 100, seed) for seed in range(config.seeds)]
        for share in config.fractions
    }
    settings = {
        "epochs": config.epochs or "60 up to 1 %, else 30",
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "crop_min_area": config.crop_min_area,
        "image_size": subject.image_size,
    }
    before = subject.recorded().get("semi", {})
    # What an interrupted evaluation has found under the same settings is not done again.
    found = before if before.get("settings") == settings else {"settings": settings}
    for share, parts in shares.items():
        for name, network in networks.items():
            accuracies = found.setdefault(name, {}).setdefault(f"{share:g} %", [])
            for seed in range(len(accuracies), config.seeds):
                epochs = config.epochs or (60 if share <= 1 else 30)
                classifier = fine_tune(
                    network(seed), data.subset(train, parts[seed]), subject.image_size, **_tuning(config, epochs, seed)
                )
                accuracy = accuracy_of(*predict_labelled(classifier, test, subject.image_size))
                accuracies.append(round(accuracy.top1, 2))
                print(f"{share:g} % of the labels, seed {seed}, {name}: top-1 {accuracy.top1:.2f} %", flush=True)
                subject.record(semi=found)
            mean, spread = statistics.mean(accuracies), statistics.pstdev(accuracies)
            print(f"{share:g} % of the labels, {name}: top-1 {mean:.2f} +- {spread:.2f} %, {len(accuracies)} seeds")
    if config.pictures:
        curves = {name: {share: found[name][f"{share:g} %"] for share in config.fractions} for name in networks}
        draw_label_fractions(_place(subject, "label_fractions.png"), curves)


def finetune(subject):
    """Fine-tuning on all labels; leaves a classifier behind."""
    config = subject.config
    train, test = subject.labelled()
    epochs = config.epochs or 30
    callbacks = [_backup(subject, "finetune")]
    classifier = fine_tune(
        subject.backbone(),
        train,
        subject.image_size,
        callbacks=callbacks,
        verbose="auto" if sys.stdout.isatty() else 2,
        **_tuning(config, epochs, config.seed),
    )
    scores, labels = predict_labelled(classifier, test, subject.image_size)
    accuracy = accuracy_of(scores, labels)
    path = _place(subject, "classifier.keras")
    unfinished = path.with_name(f".unfinished-{path.name}")  # Keras wants that ending
    classifier.save(unfinished)
    unfinished.replace(path)
    print(f"fine-tuned: top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %\nclassifier {path}")
    subject.record(finetune_top1=round(accuracy.top1, 2), finetune_top5=round(accuracy.top5, 2), finetune_epochs=epochs)
    if config.pictures:
        _draw_confusion(subject, "finetune", labels, scores.argmax(axis=1))


def retrieve(subject):
    """The training images most similar to given ones, as a picture."""
    config, train = subject.config, subject.train
    if config.neighbours > train.num_examples:
        raise ValueError(
            "`neighbours` must not exceed the number of training images, among which they are. "
            f"Received: neighbours={config.neighbours}, {train.num_examples} images. Lower --neighbours."
        )
    queries, labels = _queries(subject)
    extractor = FeatureExtractor(subject.features)
    looked_up = extractor.extract([{"image": queries, "label": labels, "index": labels}])
    # Their features go by in blocks, so that a large set need not fit into memory.
    bank = (block.features for block in extractor.blocks(subject.dataset_of(train)))
    found = nearest_neighbours(bank, looked_up.features, config.neighbours)
    rows, places = np.unique(found.rows, return_inverse=True)
    images, classes = _gathered(subject, data.subset(train, rows))
    places = places.reshape(found.rows.shape)
    path = _place(subject, "neighbours.png")
    draw_neighbours(
        path, queries, images[places], found.similarity, labels, classes[places], class_names=train.class_names
    )
    print(f"picture    {path}")


def embed(subject):
    """The features of all images of a split, in a file for NumPy, with the names of their files."""
    source = subject.images
    found = extract_features(subject.features, subject.dataset_of(source))
    path = _place(subject, f"features_{source.split}.npz")
    files = {"files": np.array([source.files[index] for index in found.index])} if source.files else {}

    def write(temporary):
        with open(temporary, "wb") as file:  # to a name, NumPy would add an ending
            np.savez(file, **found._asdict(), **files)

    replace_when_written(path, write)
    print(f"{len(found.features):,} x {found.features.shape[1]} features of {source.name} ({source.split})")
    print(f"features   {path}, with {', '.join([*found._fields, *files])}")


def measures(subject):
    """Alignment, uniformity, spread and effective rank, which need no labels."""
    source, size = subject.images, subject.image_size
    augmentation = build_augmentation(subject.recipe) if subject.recipe else moco_v2(size)
    batch = min(subject.config.batch_size, source.num_examples)
    pairs = data.pretrain_dataset(source, augmentation, batch, subject.config.seed, entries=("query", "key"))
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


def export(subject):
    """The backbone as SavedModel and .keras file, again."""
    folder = export_backbone(subject.encoder, subject.card.parent)
    print(f"exported to {folder}")


MODES = {
    "knn": knn,
    "linear": linear,
    "logistic": logistic,
    "semi": semi,
    "finetune": finetune,
    "retrieve": retrieve,
    "embed": embed,
    "measures": measures,
    "export": export,
}


def _queries(subject):
    """Images `(q, s, s, C)` to look up, and their labels, -1 where there are none."""
    names = subject.config.queries
    if all(name.isdecimal() for name in names):
        numbers = list(map(int, names))
        images, labels = _gathered(subject, data.subset(subject.images, numbers))
        order = np.argsort(np.argsort(numbers))
        return images[order], labels[order]
    images = data.read_images(names, subject.image_size, subject.train.image_shape[-1])
    return images, np.full(len(images), -1)


def _gathered(subject, source):
    """All images of a small source, with their labels."""
    batches = list(subject.dataset_of(source).as_numpy_iterator())
    return (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label"))


def _tuning(config, epochs, seed):
    return {
        "epochs": epochs,
        "batch_size": config.batch_size,
        "base_learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "crop_scale": (config.crop_min_area, 1.0),
        "seed": seed,
    }


def _backup(subject, mode):
    """Has a long training go on after a stop, from its last epoch; under other settings it begins anew."""
    settings = f"{zlib.crc32(repr((mode, subject.config)).encode()):08x}"
    return keras.callbacks.BackupAndRestore(str(_place(subject, f"unfinished_{mode}_{settings}")))


def _draw_confusion(subject, name, labels, predicted):
    draw_confusion(_place(subject, f"confusion_{name}.png"), labels, predicted, subject.train.class_names)


def _place(subject, name):
    subject.folder.mkdir(parents=True, exist_ok=True)
    return subject.folder / name


def _rounded(accuracy):
    return [round(accuracy.top1, 2), round(accuracy.top5, 2)]
