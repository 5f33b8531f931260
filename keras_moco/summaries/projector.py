"""Features for TensorBoard's embedding projector, each point drawn as its image."""

import math

import numpy as np

from keras_moco.storage.atomic import replace_when_written, write_text
from keras_moco.storage.paths import user_path
from keras_moco.summaries.image_grid import grid, levels, save
from keras_moco.summaries.looking import shrunk

LIMIT = 8192  # pixels, beyond which TensorBoard refuses a sprite
SIDE = 48  # pixels of an image on it, at most: 2,000 photographs are 8 MB


def write_projector(log_dir, looked, class_names=None):
    """Writes features, labels and small images where TensorBoard's projector finds them, in place of earlier ones.

    Args:
        log_dir: path of the folder in which the run's events are, made if it is missing.
        looked: `Looked`.
        class_names: strings, for the labels. Defaults to `None`: the points have no class.

    Returns:
        `pathlib.Path` of the projector's configuration, which is written last.
    """
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    folder = user_path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    columns = math.ceil(math.sqrt(len(looked.images)))
    images = shrunk(looked.images, min(SIDE, LIMIT // columns))
    cells = [levels(image) for image in images]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    save(folder / "sprite.png", grid(rows, gap=0))
    replace_when_written(
        folder / "features.tsv", lambda path: np.savetxt(path, looked.features, fmt="%.5g", delimiter="\t")
    )
    write_text(folder / "labels.tsv", labels_table(looked, class_names))

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(tensor_name="features", tensor_path="features.tsv", metadata_path="labels.tsv")
    embedding.tensor_shape.extend(looked.features.shape)
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend(2 * [images.shape[1]])
    path = folder / "projector_config.pbtxt"
    write_text(path, text_format.MessageToString(config))
    return path


def labels_table(looked, class_names):
    """A line for each point: its class and its index in the source, or the index alone where there are no classes."""
    if class_names is None:
        return "".join(f"{index}\n" for index in looked.index)  # one column has no header
    names = [" ".join(name.split()) for name in class_names]  # without what would end a cell
    known = [names[label] if label >= 0 else "no label" for label in looked.labels]
    return "class\tindex\n" + "".join(f"{name}\t{index}\n" for name, index in zip(known, looked.index, strict=True))
