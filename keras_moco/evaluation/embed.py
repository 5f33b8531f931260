"""The features of all images of a split, in a file for NumPy."""

import numpy as np

from keras_moco.evaluation.features import IMAGE_SETTINGS, extract_features
from keras_moco.storage.atomic import replace_when_written

SETTINGS = (*IMAGE_SETTINGS, "split", "features")


def run(target):
    """`evaluate.py embed`: with labels, numbers and file names of the images, and the names of the classes."""
    source = target.images
    found = extract_features(target.features, target.dataset_of(source))
    path = target.output.path_of(f"features_{source.split}.npz")
    arrays = {**found._asdict()}
    files = source.files_of(found.index)
    if any(files):
        arrays["files"] = np.array([file or "" for file in files])  # text, which NumPy reads without pickle
    if source.class_names:
        arrays["class_names"] = np.array(source.class_names)

    def write(temporary):
        with open(temporary, "wb") as file:  # given a name, NumPy would add a suffix
            np.savez(file, **arrays)

    replace_when_written(path, write)
    print(f"{len(found.features):,} x {found.features.shape[1]} features of {source.name} ({source.split})")
    print(f"features   {path}, with {', '.join(arrays)}")
