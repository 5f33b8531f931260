"""Modes that train the backbone on with labels: many, or few."""

from keras_moco import data
from keras_moco.evaluation import accuracy_of, draw_label_fractions, fine_tune, fresh_copy, predict_labelled
from keras_moco.evaluation.accuracy import told_together
from keras_moco.modes.base import IMAGES, mode
from keras_moco.modes.report import backup, draw_confusion_of, told, verbosity

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
    found = subject.recorded().get("semi", {})
    for share, parts in shares.items():
        epochs = config.epochs or (60 if share <= 1 else 30)
        settings = {
            "epochs": epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "crop_min_area": config.crop_min_area,
            "image_size": subject.image_size,
        }
        before = found.get(f"{share:g} %", {})
        # What an interrupted evaluation has found under the same settings is not done again.
        here = found[f"{share:g} %"] = before if before.get("settings") == settings else {"settings": settings}
        for name, network in networks.items():
            accuracies = here.setdefault(name, [])
            for seed in range(len(accuracies), config.seeds):
                part = data.subset(train, parts[seed])
                classifier = fine_tune(network(seed), part, subject.image_size, **_tuning(config, epochs, seed))
                accuracy = accuracy_of(*predict_labelled(classifier, test, subject.image_size))
                accuracies.append(round(accuracy.top1, 2))
                print(f"{share:g} % of the labels, seed {seed}, {name}: top-1 {accuracy.top1:.2f} %", flush=True)
                subject.record(semi=found)
            print(f"{share:g} % of the labels, {name}: top-1 {told_together(accuracies)}")
    if config.pictures:
        recorded = [(float(share.removesuffix(" %")) / 100, here) for share, here in found.items()]  # earlier ones too
        curves = {name: {share: here[name] for share, here in recorded if name in here} for name in networks}
        draw_label_fractions(subject.place("label_fractions.png"), curves)


@mode(*IMAGES, *TUNING, "seed")
def finetune(subject):
    """Fine-tuning on all labels; leaves a classifier behind."""
    config = subject.config
    train, test = subject.labelled()
    epochs = config.epochs or 30
    callbacks = [backup(subject, "finetune")]
    classifier = fine_tune(
        subject.backbone(),
        train,
        subject.image_size,
        callbacks=callbacks,
        verbose=verbosity(),
        **_tuning(config, epochs, config.seed),
    )
    scores, labels = predict_labelled(classifier, test, subject.image_size)
    accuracy = accuracy_of(scores, labels)
    path = subject.place("classifier.keras")
    unfinished = path.with_name(f".unfinished-{path.name}")  # Keras wants that ending
    classifier.save(unfinished)
    unfinished.replace(path)
    print(f"fine-tuned: {told(accuracy)}\nclassifier {path}")
    subject.record(finetune_top1=round(accuracy.top1, 2), finetune_top5=round(accuracy.top5, 2), finetune_epochs=epochs)
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
