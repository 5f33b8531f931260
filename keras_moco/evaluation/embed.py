"""The features of all images of a split, in a file for NumPy."""

import numpy as np

from keras_moco.evaluation.features import IMAGE_SETTINGS, extract_features
from keras_moco.storage.atomic import replace_when_written

SETTINGS = (*IMAGE_SETTINGS, "split", "features")


def run(target):
    """`evaluate.py embed`: with labels, numbers and file names of the images."""
    source = target.images
    found = extract_features(target.features, target.dataset_of(source))
    path = target.output.path_of(f"features_{source.split}.npz")
    arrays = {**found._asdict()}
    if source.files:
        arrays["files"] = np.array([source.files[index] for index in found.index])

    def write(temporary):
        with open(temporary, "wb") as file:  # given a name, NumPy would add a suffix
            np.savez(file, **arrays)

    replace_when_written(path, write)
    print(f"{len(found.features):,} x {found.features.shape[1]} features of {source.name} ({source.split})")
    print(f"features   {path}, with {', '.join(arrays)}")
