"""Fine-tuning of a backbone with a linear classifier on top, on labelled images."""

from collections.abc import Sequence

import keras

from keras_moco.augment import supervised
from keras_moco.data import steps_per_epoch
from keras_moco.data.source import Source
from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import accuracy_of, in_words
from keras_moco.evaluation.features import IMAGE_SETTINGS
from keras_moco.evaluation.labelled import check_labels, fit_labelled, fit_verbosity, predict_labelled
from keras_moco.evaluation.plots import draw_confusion
from keras_moco.evaluation.unfinished import Unfinished, delete_outdated, unfinished_run
from keras_moco.networks.raw_values import takes_raw_values
from keras_moco.networks.seeds import initial_seed
from keras_moco.optimizers import SGD
from keras_moco.optimizers.schedules import learning_rate
from keras_moco.storage.atomic import in_memory, replace_when_written

TUNING_SETTINGS = (*IMAGE_SETTINGS, "epochs", "learning_rate", "weight_decay", "crop_min_area", "pictures")
SETTINGS = (*TUNING_SETTINGS, "seed")


def run(target):
    """`evaluate.py finetune`: on all labels; saves the classifier."""
    config, output = target.config, target.output
    train, test = target.labelled()
    epochs = config.epochs or 30
    delete_outdated(target, "finetune")
    unfinished = unfinished_run(target, "finetune")
    settings = {"verbose": fit_verbosity(), "unfinished": unfinished, **tuning(config, epochs, config.seed)}
    classifier = fine_tune(target.backbone(), train, target.image_size, **settings)
    scores, labels = predict_labelled(classifier, test, target.image_size)
    accuracy = accuracy_of(scores, labels)
    path = output.path_of("classifier.keras")
    content = in_memory(takes_raw_values(classifier, target.value_range).save, path.name)
    replace_when_written(path, lambda temporary: temporary.write_bytes(content))
    print(f"fine-tuned: {in_words(accuracy)}\nclassifier {path}")
    output.record(finetune_top1=round(accuracy.top1, 2), finetune_top5=round(accuracy.top5, 2), finetune_epochs=epochs)
    unfinished.delete()
    if config.pictures:
        draw_confusion(output.path_of("confusion_finetune.png"), labels, scores.argmax(axis=1), train.class_names)


def tuning(config, epochs, seed):
    """The arguments of `fine_tune` that an `EvaluationConfig` decides."""
    return {
        "epochs": epochs,
        "batch_size": config.batch_size,
        "base_learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "crop_scale": (config.crop_min_area, 1.0),
        "seed": seed,
    }


def fine_tune(
    backbone: keras.Model,
    train: Source,
    image_size: int,
    epochs: int = 30,
    batch_size: int = 256,
    base_learning_rate: float = 0.05,
    weight_decay: float = 0.0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = 0,
    unfinished: Unfinished | None = None,
) -> keras.Model:
    """Trains a linear classifier and the backbone below it together.

    The settings are those of SimCLR's semi-supervised learning (appendix B.5), which later papers share: SGD with
    Nesterov momentum 0.9 at 0.05 for 256 images per step, no weight decay, random crops and flips; 60 epochs on 1 % of
    ImageNet's labels and 30 on 10 %. MoCo's authors published none. The learning rate follows a cosine to zero, and
    BatchNorm is in training mode.

    Args:
        backbone: `keras.Model` from images `(n, H, W, C)` in 0..255 to features `(n, F)`. Its own variables are
            trained, except those of frozen layers.
        train: labelled `Source`, in which every class occurs.
        image_size: int, pixels.
        epochs: int.
        batch_size: int, reduced to the number of images where that is smaller.
        base_learning_rate: float, for 256 images per step; scaled linearly.
        weight_decay: float, L2 added to the gradient.
        crop_scale: (low, high). Range of the crops' area as a fraction of the image's.
        seed: int, the random seed of the classifier's weights, the data order and the crops.
        callbacks: as for `keras.Model.fit`.
        verbose: as for `keras.Model.fit`.
        unfinished: `keras_moco.evaluation.unfinished.Unfinished`, from which an interrupted run resumes. Defaults to
            `None`: it starts from the beginning.

    Returns:
        `keras.Model` from images `(n, image_size, image_size, C)` in 0..255 to logits `(n, classes)`.

    Raises:
        ValueError: if images have no label, or a class has no image.

    Example:

    ```python
    backbone = load_backbone("runs/imagenet")
    classifier = fine_tune(backbone, open_source("folder:flowers"), image_size=224)
    classifier.save("flowers.keras")
    ```
    """
    check_labels("train.labels", train.known_labels()[0], train.num_classes, every_class=True)
    batch_size = min(batch_size, train.num_examples)
    steps = steps_per_epoch(train, batch_size)
    images = keras.Input((image_size, image_size, train.image_shape[-1]), name="images")
    small = keras.initializers.RandomNormal(stddev=0.01, seed=seed)  # official `main_lincls.py`
    logits = keras.layers.Dense(train.num_classes, kernel_initializer=small, name="logits")(backbone(images))
    model = keras.Model(images, logits, name="classifier")
    rate = learning_rate("cosine", base_learning_rate * batch_size / 256, epochs, steps, per_step=True)
    model.compile(
        SGD(rate, momentum=0.9, weight_decay=weight_decay, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # Here, because within `fit` TensorFlow refuses the names of velocities of a SavedModel's variables.
    model.optimizer.build(model.trainable_variables)
    fit_labelled(
        model,
        train,
        supervised(image_size, crop_scale=crop_scale),
        batch_size,
        epochs,
        seed,
        callbacks=callbacks,
        verbose=verbose,
        unfinished=unfinished,
    )
    return model


def fresh_copy(backbone: keras.Model, seed: int = 0) -> keras.Model:
    """The same network with random weights, the baseline of pre-training.

    Args:
        backbone: `keras.Model` of Keras layers, such as `load_backbone` returns.
        seed: int, the random seed of the weights.

    Returns:
        `keras.Model`.

    Raises:
        ValueError: if the backbone cannot be built again, as one from a SavedModel.
    """
    if not isinstance(backbone, keras.Model) or any(
        isinstance(layer, keras.layers.TFSMLayer) for layer in backbone.layers
    ):
        raise UserError(
            "The backbone must be of Keras layers to be compared with random weights. "
            f"Received: {backbone.name}, from a SavedModel. Use the .keras file of the same export."
        )
    with initial_seed(seed):
        return keras.models.clone_model(backbone)
