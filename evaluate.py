"""Evaluates or exports what a run of train.py has learnt: python evaluate.py MODE --workdir=runs/quickstart

Modes:
  knn      weighted k-nearest-neighbour accuracy of the embedding, and of the backbone's features
  linear   logistic regression on the frozen features
  export   SavedModel and .keras file of the backbone, again

Figures are printed, and added to results.json in the folder of the run.
"""

import sys

try:
    from absl import flags

    from keras_moco import command_line
    from keras_moco.data import plain_read_errors
    from keras_moco.evaluation import LEVELS, at_level, extract_features, knn_accuracy, linear_probe
    from keras_moco.export import export_backbone
    from keras_moco.trained_run import load_run
except ImportError as error:
    sys.exit(f"error: {error}")
except KeyboardInterrupt:  # importing takes seconds
    sys.exit(130)

FLAGS = flags.FLAGS


def define_flags(values):
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values, required=True)
    flags.DEFINE_string("data_dir", None, "Where tfds data sets lie, if not as in training.", flag_values=values)
    flags.DEFINE_integer("knn_k", 200, "Neighbours that vote (CIFAR-10 demo).", flag_values=values)
    flags.DEFINE_float("knn_temperature", 0.1, "Temperature of their votes.", flag_values=values)


def knn(trained):
    for level in LEVELS:
        embed = at_level(trained.encoder, level)
        train, test = (extract_features(embed, split) for split in trained.labelled_data())
        accuracy = knn_accuracy(
            *(train.features, train.labels, test.features, test.labels),
            num_classes=trained.num_classes,
            k=FLAGS.knn_k,
            temperature=FLAGS.knn_temperature,
        )
        print(f"kNN (k={FLAGS.knn_k}) on the {level}: top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %")
        trained.run.record(**{f"knn_top1_{level}": round(accuracy.top1, 2), "knn_k": FLAGS.knn_k})


def linear(trained):
    probe = linear_probe(trained.encoder, *trained.labelled_data())
    print(f"linear probe: top-1 {probe.accuracy:.2f} % (C={probe.c:g}); no bit of the encoder changed")
    trained.run.record(linear_top1=round(probe.accuracy, 2), linear_c=probe.c)


def export(trained):
    print(f"exported to {export_backbone(trained.encoder, trained.run.export)}")


MODES = {"knn": knn, "linear": linear, "export": export}


def main(arguments):
    if len(arguments) != 1 or arguments[0] not in MODES:
        raise ValueError(
            f"evaluate.py must be given one mode of {', '.join(MODES)}. Received: {' '.join(arguments) or 'none'}. "
            "Write for example: python evaluate.py knn --workdir=runs/quickstart."
        )
    with plain_read_errors():
        MODES[arguments[0]](load_run(FLAGS.workdir, FLAGS.data_dir))


if __name__ == "__main__":
    command_line.run(main, define_flags)
