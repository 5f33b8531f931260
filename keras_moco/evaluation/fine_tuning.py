"""Fine-tuning: a classifier on the backbone, and all of it trained, on all labels or on few."""

import keras

from keras_moco.augment import supervised
from keras_moco.data import steps_per_epoch
from keras_moco.errors import UserError
from keras_moco.evaluation.checks import check_labelled
from keras_moco.evaluation.unfinished import fit_labelled
from keras_moco.optimizers import SGD
from keras_moco.optimizers.schedules import learning_rate


def fine_tune(
    backbone,
    train,
    image_size,
    epochs=30,
    batch_size=256,
    base_learning_rate=0.05,
    weight_decay=0.0,
    crop_scale=(0.08, 1.0),
    seed=0,
    callbacks=(),
    verbose=0,
    unfinished=None,
):
    """Trains a linear classifier and the backbone below it together.

    The settings are those of SimCLR's semi-supervised learning (appendix B.5), which later papers share: SGD with
    Nesterov momentum 0.9 at 0.05 for 256 images per step, no weight decay, random crops and flips; 60 epochs on 1 % of
    ImageNet's labels and 30 on 10 %. MoCo's authors did not publish any. The rate falls to zero on a cosine, and
    BatchNorm is in training mode.

    Args:
        backbone: `keras.Model` from images `(n, H, W, C)` in 0..255 to features `(n, F)`. It is trained itself, as far
            as its layers are trainable.
        train: labelled `Source`, in which every class occurs.
        image_size: int, pixels.
        epochs: int.
        batch_size: int, no more than there are images are taken.
        base_learning_rate: float, for 256 images per step; scaled linearly.
        weight_decay: float, L2 added to the gradient.
        crop_scale: (low, high). Range of the crops' area as a fraction of the image's.
        seed: int, of the classifier, the data order and the crops; sets Keras's global seed.
        callbacks: of `keras.Model.fit`.
        verbose: as of `keras.Model.fit`.
        unfinished: `keras_moco.evaluation.unfinished.Unfinished`, from which an interrupted training resumes. Defaults
            to `None`: it begins anew.

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
    check_labelled("train", train.known_labels()[0], train.num_classes, every_class=True)
    keras.utils.set_random_seed(seed)
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
    # Here, since within `fit` TensorFlow refuses the names that variables of a SavedModel give to their velocities.
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


def fresh_copy(backbone, seed=0):
    """The same network at random weights: what pre-training has to beat.

    Args:
        backbone: `keras.Model` of stock layers, as `load_backbone` gives it.
        seed: int; sets Keras's global seed.

    Returns:
        `keras.Model`.

    Raises:
        ValueError: if the backbone cannot be built anew, as one out of a SavedModel.
    """
    if not isinstance(backbone, keras.Model) or any(
        isinstance(layer, keras.layers.TFSMLayer) for layer in backbone.layers
    ):
        raise UserError(
            "The backbone must be of Keras layers to be compared with random weights. "
            f"Received: {backbone.name}, out of a SavedModel. Give the .keras file that was exported beside it."
        )
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(backbone)
