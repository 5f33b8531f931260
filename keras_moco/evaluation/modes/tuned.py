"""Modes that train the backbone on with labels: many, or few."""

from keras_moco import data
from keras_moco.evaluation import accuracy_of, draw_label_fractions, fine_tune, fresh_copy, predict_labelled
from keras_moco.evaluation.accuracy import told_together
from keras_moco.evaluation.modes.base import IMAGES, mode
from keras_moco.evaluation.modes.report import draw_confusion_of, drop_outdated, told, unfinished, verbosity
from keras_moco.storage.atomic import in_memory, replace_when_written

TUNING = ("epochs", "learning_rate", "weight_decay", "crop_min_area", "pictures")


@mode(*IMAGES, *TUNING, "fractions", "seeds", "random_weights")
def semi(subject):
    """Fine-tuning on a few percent of the labels, the same for every class, beside the same network from scratch."""
    config = subject.config
    train, test = subject.labelled()
    labels, known = train.known_labels()
    networks = {"pre-trained": lambda seed: subject.backbone()}
    if config.random_weights:
        fresh_copy(subject.backbone())  # says at once if it cannot be done
        networks["random weights"] = lambda seed: fresh_copy(subject.backbone(), seed)
    shares = {
        share: [known[data.balanced_indices(labels, share / 100, seed)] for seed in range(config.seeds)]
        for share in config.fractions
    }
    drop_outdated(subject, "semi")
    for share, parts in shares.items():
        epochs = config.epochs or (60 if share <= 1 else 30)
        settings = {
            "epochs": epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "crop_min_area": config.crop_min_area,
            "image_size": subject.image_size,
            "checkpoint": subject.checkpoint,
            "images": {"train": train.digests, "test": test.digests},
        }
        # What an interrupted evaluation has found under the same settings is not done again.
        here = _joined(subject.recorded().get("semi", {}).get(f"{share:g} %", {}), {"settings": settings})
        for name, network in networks.items():
            while (seed := len(here.get(name, []))) < config.seeds:
                part, kept = data.subset(train, parts[seed]), unfinished(subject, "semi", share, name, seed)
                tuning = _tuning(config, epochs, seed)
                classifier = fine_tune(network(seed), part, subject.image_size, unfinished=kept, **tuning)
                accuracy = accuracy_of(*predict_labelled(classifier, test, subject.image_size))
                here[name] = [*here.get(name, []), round(accuracy.top1, 2)]
                print(f"{share:g} % of the labels, seed {seed}, {name}: top-1 {accuracy.top1:.2f} %", flush=True)
                here = _record_share(subject, f"{share:g} %", here)
                kept.delete()
            print(f"{share:g} % of the labels, {name}: top-1 {told_together(here[name])}")
    if config.pictures:
        found = {  # earlier ones too, but those of other checkpoints
            float(share.removesuffix(" %")) / 100: here
            for share, here in subject.recorded()["semi"].items()
            if here.get("settings", {}).get("checkpoint") == subject.checkpoint
        }
        curves = {name: {share: here[name] for share, here in found.items() if name in here} for name in networks}
        draw_label_fractions(subject.place("label_fractions.png"), curves)


def _record_share(subject, share, ours):
    """Records the accuracies of one share of the labels beside those of other processes: a dict of all of them."""
    joined = {}

    def add(semi):
        joined.update(_joined((semi or {}).get(share, {}), ours))
        return {**(semi or {}), share: joined}

    subject.record(semi=add)
    return joined


def _joined(theirs, ours):
    """What was found under the same settings, where the longer list has the shorter one in it; else ours alone."""
    if theirs.get("settings") != ours["settings"]:
        return ours
    names = ours.keys() - {"settings"}
    return {**theirs, **{name: max(theirs.get(name, []), ours[name], key=len) for name in names}}


@mode(*IMAGES, *TUNING, "seed")
def finetune(subject):
    """Fine-tuning on all labels; leaves a classifier behind."""
    config = subject.config
    train, test = subject.labelled()
    epochs = config.epochs or 30
    drop_outdated(subject, "finetune")
    kept = unfinished(subject, "finetune")
    classifier = fine_tune(
        subject.backbone(),
        train,
        subject.image_size,
        verbose=verbosity(),
        unfinished=kept,
        **_tuning(config, epochs, config.seed),
    )
    scores, labels = predict_labelled(classifier, test, subject.image_size)
    accuracy = accuracy_of(scores, labels)
    path = subject.place("classifier.keras")
    content = in_memory(classifier.save, path.name)
    replace_when_written(path, lambda temporary: temporary.write_bytes(content))
    print(f"fine-tuned: {told(accuracy)}\nclassifier {path}")
    subject.record(finetune_top1=round(accuracy.top1, 2), finetune_top5=round(accuracy.top5, 2), finetune_epochs=epochs)
    kept.delete()
    if config.pictures:
        draw_confusion_of(subject, "finetune", labels, scores.argmax(axis=1))


def _tuning(config, epochs, seed):
    return {
        "epochs": epochs,
        "batch_size": config.batch_size,
        "base_learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "crop_scale": (config.crop_min_area, 1.0),
        "seed": seed,
    }
