"""Semi-supervised evaluation: fine-tuning on a few percent of the labels."""

from keras_moco import data
from keras_moco.evaluation.accuracy import accuracy_of, mean_and_std
from keras_moco.evaluation.finetune import TUNING_SETTINGS, fine_tune, fresh_copy, tuning
from keras_moco.evaluation.labelled import predict_labelled
from keras_moco.evaluation.plots import draw_label_fractions
from keras_moco.evaluation.unfinished import delete_outdated, unfinished_run

SETTINGS = (*TUNING_SETTINGS, "fractions", "seeds", "random_weights")


def run(target):
    """`evaluate.py semi`: balanced over classes, beside the same network from random weights."""
    config = target.config
    train, test = target.labelled()
    labels, known = train.known_labels()
    networks = {"pre-trained": lambda seed: target.backbone()}
    if config.random_weights:
        fresh_copy(target.backbone())  # fails at once if that is impossible
        networks["random weights"] = lambda seed: fresh_copy(target.backbone(), seed)
    shares = {
        share: [known[data.balanced_indices(labels, share / 100, seed)] for seed in range(config.seeds)]
        for share in config.fractions
    }
    delete_outdated(target, "semi")
    for share, parts in shares.items():
        epochs = config.epochs or (60 if share <= 1 else 30)
        settings = {
            "epochs": epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "crop_min_area": config.crop_min_area,
            "image_size": target.image_size,
            "checkpoint": target.checkpoint,
            "images": {"train": train.digests, "test": test.digests},
        }
        # Results of an interrupted evaluation with the same settings are kept.
        here = _joined(target.output.recorded().get("semi", {}).get(f"{share:g} %", {}), {"settings": settings})
        for name, network in networks.items():
            while (seed := len(here.get(name, []))) < config.seeds:
                part, unfinished = data.subset(train, parts[seed]), unfinished_run(target, "semi", share, name, seed)
                arguments = {"unfinished": unfinished, **tuning(config, epochs, seed)}
                classifier = fine_tune(network(seed), part, target.image_size, **arguments)
                accuracy = accuracy_of(*predict_labelled(classifier, test, target.image_size))
                here[name] = [*here.get(name, []), round(accuracy.top1, 2)]
                print(f"{share:g} % of the labels, seed {seed}, {name}: top-1 {accuracy.top1:.2f} %", flush=True)
                here = _record_share(target, f"{share:g} %", here)
                unfinished.delete()
            print(f"{share:g} % of the labels, {name}: top-1 {mean_and_std(here[name])}")
    if config.pictures:
        found = {  # earlier results too, except those of other checkpoints
            float(share.removesuffix(" %")) / 100: here
            for share, here in target.output.recorded()["semi"].items()
            if here.get("settings", {}).get("checkpoint") == target.checkpoint
        }
        curves = {name: {share: here[name] for share, here in found.items() if name in here} for name in networks}
        draw_label_fractions(target.output.path_of("label_fractions.png"), curves)


def _record_share(target, share, ours):
    """Adds the accuracies for one share of the labels to those of other processes, and returns all of them."""
    joined = {}

    def add(semi):
        joined.update(_joined((semi or {}).get(share, {}), ours))
        return {**(semi or {}), share: joined}

    target.output.record(semi=add)
    return joined


def _joined(theirs, ours):
    """Both results if their settings are equal, where the longer list contains the shorter; else ours alone."""
    if theirs.get("settings") != ours["settings"]:
        return ours
    names = ours.keys() - {"settings"}
    return {**theirs, **{name: max(theirs.get(name, []), ours[name], key=len) for name in names}}
