"""Which images are for training and which for testing: by the names of folders, or a share that is held out."""

import hashlib
import os

from absl import logging

from keras_moco.errors import UserError, one_line

# Names, in any letter case. Of several lines the first one that is found is the split.
NAMES = {
    "train": (("train", "training", "seg_train"),),
    "test": (("test", "testing", "seg_test"), ("val",), ("validation",), ("valid",)),
}

UNLABELLED = "seg_pred"  # of which Kaggle ships images without labels beside `seg_train` and `seg_test`


def named_for(split, names):
    """Those of some names that stand for a split: a sorted list of names that mean the same.

    Example:

    >>> named_for("test", ["Val", "train", "valid"]), named_for("train", ["Train", "cat", "training"])
    (['Val'], ['Train', 'training'])
    """
    found = (sorted(name for name in names if name.lower() in same) for same in NAMES[split])
    return next(filter(None, found), [])


def is_split_name(name):
    """Whether a name stands for one of the splits."""
    return any(name.lower() in same for ranks in NAMES.values() for same in ranks)


def split_folders(root, name, is_image):
    """The folders in a folder that are splits; without one for training, none is.

    A split whose only content is a folder of the same name, as Kaggle ships them (`seg_train/seg_train/<class>`), is
    that folder; but of the test split not if it may be a class, of which the training split has one of that name.

    Args:
        root: `pathlib.Path` of a folder that can be listed.
        name: str, the name of the source, for messages.
        is_image: function of the path of a file to whether it is read.

    Returns:
        dict of `"train"`, and `"test"` if there is one, to paths; empty if the whole folder is the training split.

    Raises:
        ValueError: if two folders stand for the same split, or other folders with images are beside them.
    """
    folders, files = _listed(root)
    found = chosen(folders, lambda folder: _holds_images(root / folder, is_image), root, name)
    found = unwrapped(found, lambda folder: _listed(root / folder))
    if found and (loose := [file for file in files if is_image(str(root / file))]):
        logging.warning(
            "%s: %d images beside the sub-folder `%s` are not read, the first one: %s",
            *(one_line(name), len(loose), found["train"], one_line(str(root / loose[0]))),
        )
    return {split: root / folder for split, folder in found.items()}


def chosen(folders, holds_images, root, name):
    """The folders that are splits among those of one folder; without one for training, none is.

    Args:
        folders: list of str, their names.
        holds_images: function of such a name to whether there are images in it.
        root: path of the folder that they are in, for messages.
        name: str, the name of the source, for messages.

    Returns:
        dict of `"train"`, and `"test"` if there is one, to names.

    Raises:
        ValueError: as `split_folders`.
    """
    found = {split: named_for(split, folders) for split in NAMES}
    if not found["train"]:
        return {}
    for split, names in found.items():
        if len(names) > 1:
            raise UserError(
                f"A folder must have one sub-folder for split={split!r}. Received: {name!r} with {' and '.join(names)} "
                f"in {root}. Merge them, or move the others away."
            )
    others = [each for each in folders if not is_split_name(each) and holds_images(each)]
    unlabelled = [each for each in others if each.lower() == UNLABELLED]
    if unlabelled:
        logging.warning("%s: images in `%s` are not read", one_line(name), unlabelled[0])
    others = [each for each in others if each not in unlabelled]
    if others:
        train = found["train"][0]
        listed = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise UserError(
            "A folder must hold either the splits or the classes. "
            f"Received: {name!r}, where {root}/{train} may be the training split, or a class as {listed} may be. If it "
            f"is the split, move {listed} away; if it is a class, rename it."
        )
    return {split: names[0] for split, names in found.items() if names}


def unwrapped(found, content):
    """The splits, each as the folder that has its images: itself, or the only one in it, if that has the same name.

    Args:
        found: dict of `"train"` and `"test"` to names of folders.
        content: function of such a name to lists of the names of folders and of files in it.

    Returns:
        dict of the same keys to names, perhaps with one within the other, `"seg_train/seg_train"`.
    """
    inside = {split: content(folder) for split, folder in found.items()}

    def wraps(split):
        folders, files = inside[split]
        alone = not files and [each.lower() for each in folders] == [found[split].lower()]
        return alone and (split == "train" or folders[0] not in inside["train"][0])

    return {split: f"{folder}/{inside[split][0][0]}" if wraps(split) else folder for split, folder in found.items()}


def _listed(root):
    """The names in a folder except hidden ones: sorted lists of folders, with links to them, and of all others."""
    names = [], []
    with os.scandir(root) as entries:
        for entry in entries:
            # Known from the listing, without a call for each of perhaps a million files.
            is_folder = entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
            if not entry.name.startswith("."):
                names[0 if is_folder else 1].append(entry.name)
    return tuple(map(sorted, names))


def _holds_images(folder, is_image):
    """Whether there is an image at any depth; what may not be read counts as none."""
    for inner, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        if any(is_image(os.path.join(inner, file)) and not file.startswith(".") for file in files):
            return True
    return False


def is_held_out(name, fraction):
    """Whether an image is one of the share that is held out for testing.

    It is if the SHA-256 of its name, whose first 8 bytes are read as a number in [0, 1), is below `fraction`. So each
    class is divided by that share on average, the same names are always divided alike, other images change nothing, and
    a larger share holds out the same images and more.

    Args:
        name: str, the path of the image in its folder.
        fraction: float in [0, 1].

    Example:

    >>> is_held_out("cat/1.jpg", 0.0), is_held_out("cat/1.jpg", 1.0)
    (False, True)
    """
    first_bytes = hashlib.sha256(os.fsencode(name)).digest()[:8]
    return int.from_bytes(first_bytes, "big") < fraction * 2**64


def divide(files, split, fraction, name):
    """The images of a split where a share is held out as the test split.

    Args:
        files: list of `keras_moco.data.folder.ImageFile`.
        split: str, `"train"` or `"test"`.
        fraction: float in [0, 1), the share.
        name: str, the name of the source, for messages.

    Returns:
        A list, in their order.

    Raises:
        ValueError: if one of the two splits is empty.
    """
    held_out = [is_held_out(file.name, fraction) for file in files]
    if all(held_out) or not any(held_out):
        raise UserError(
            "`test_fraction` must leave images for training and for testing. "
            f"Received: test_fraction={fraction}, which holds out {sum(held_out)} of {len(files)} images of {name}. "
            "Choose another share."
        )
    return [file for file, is_test in zip(files, held_out, strict=True) if is_test == (split == "test")]
