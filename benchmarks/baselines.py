"""What a run has to beat: pixels, and the same network at random initialisation.

    python benchmarks/baselines.py [configs/fashion_mnist.cfg] [--data_dir DIR] [--quick] [--json PATH]

Prints the accuracy on the test split of weighted kNN (k and temperature as configured) and of logistic regression.
"""

import argparse
import dataclasses
import json

from keras import ops

from keras_moco import data, distribution
from keras_moco.config.training import read_flagfile
from keras_moco.evaluation import extract_features, knn_accuracy, linear_accuracy
from keras_moco.evaluation.knn import usual_k
from keras_moco.runs.build import build_model
from keras_moco.runs.plan import Plan


def pixels(images):
    return ops.reshape(images, (ops.shape(images)[0], -1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flagfile", nargs="?", default="configs/quickstart.cfg", help="configuration of the run")
    parser.add_argument("--data_dir", help="where tfds data sets lie")
    parser.add_argument("--quick", action="store_true", help="without logistic regression")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    config = dataclasses.replace(read_flagfile(arguments.flagfile), data_dir=arguments.data_dir)
    sources = [data.open_source(config.dataset, split, config.data_dir) for split in ("train", "test")]
    encoder = build_model(Plan.of(config, sources[0], replicas=1), distribution.make_strategy("one")).encoder
    datasets = [data.evaluation_dataset(source, config.image_size) for source in sources]
    report = {}
    candidates = {"pixels": pixels, "random_backbone": encoder.features, "random_embedding": encoder}
    for name, embed in candidates.items():
        train, test = (extract_features(embed, dataset) for dataset in datasets)
        features = (train.features, train.labels, test.features, test.labels)
        classes = sources[0].num_classes
        k = config.knn_k or usual_k(train.labels)
        report[f"{name}_knn_top1"] = knn_accuracy(*features, classes, k, config.knn_temperature).top1
        if not arguments.quick:
            report[f"{name}_linear_top1"] = linear_accuracy(train, test).accuracy
        print(name, "  ".join(f"{key} {value:.2f} %" for key, value in report.items() if key.startswith(name)))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
