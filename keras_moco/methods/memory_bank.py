"""The memory bank: the dictionary is drawn from vectors that the training images had when they were last seen."""

import math

import keras

from keras_moco import distribution
from keras_moco.errors import UserError
from keras_moco.layers import FeatureBank
from keras_moco.methods.base import Method, size
from keras_moco.methods.contrastive_model import Contrast, ContrastiveModel
from keras_moco.methods.losses import info_nce
from keras_moco.networks import shuffle_bn


@keras.saving.register_keras_serializable(package="keras_moco")
class MemoryBank(ContrastiveModel):
    """Contrasts each image with its own vector in a bank and with those of random others (MoCo, Fig. 2b and sec. 4.1).

    The dictionary can be large at little cost, and is inconsistent: its vectors come from encoders of different steps
    all over the past epoch. Here with InfoNCE, as in the paper's comparison, where Wu et al. 2018 used NCE. One view of
    an image is encoded per step, without a key encoder, and BatchNorm needs no shuffling, positives being of other
    mini-batches (the paper, sec. 4.1).

    The negatives are drawn once for the whole batch, from all images but those in it, with replacement; the code of Wu
    et al. draws for every query alone, which takes `n` times the memory and may draw the query's own image.

    Args:
        encoder: the `Encoder`, of any backbone.
        bank_size: positive int, the number of training images. Batches have an `"index"` below it for every image.
        num_negatives: positive int, `K`. Defaults to `4096` (Wu et al. 2018; the paper goes up to 65536).
        bank_momentum: float in `[0, 1]`, of the bank's vectors. Defaults to `0.5` (the code of Wu et al.).
        temperature: positive float, `T`. Defaults to `0.07` (both papers).
        seed: int, of the bank's first content and of the draws. Defaults to `0`.
        **kwargs: of `keras.Model`.

    Call arguments:
        images: `(n, H, W, C)`, values in 0..255.
        training: bool. Defaults to `False`.

    Call returns:
        `(n, D)` float32, unit-norm embeddings.

    Raises:
        ValueError: if an argument is out of its range; in the first step, if batches have no `"index"`, or hold as
            many images as the bank; in any step, if an index is outside of the bank (not on TPU).

    Example:

    ```python
    images = open_source("tfds:cifar10")
    model = MemoryBank(Encoder(resnet("resnet18", stem="cifar"), linear_head(512)), images.num_examples)
    model.compile(optimizer=SGD(0.03))
    model.fit(pretrain_dataset(images, moco_cifar(32), 256), steps_per_epoch=195, epochs=200)
    ```
    """

    required = ("query", "index")
    remembers_images = True

    def __init__(self, encoder, bank_size, num_negatives=4096, bank_momentum=0.5, temperature=0.07, seed=0, **kwargs):
        super().__init__(encoder, temperature, **kwargs)
        if int(num_negatives) != num_negatives or num_negatives < 1:
            raise UserError(
                f"`num_negatives` must be a positive integer. Received: num_negatives={num_negatives}. "
                "Wu et al. use 4096."
            )
        self.num_negatives = int(num_negatives)
        self.bank = FeatureBank(bank_size, encoder.embedding_dim, bank_momentum, seed, name="bank")
        self.built = True

    def encode_targets(self, views):
        present = distribution.all_gather(views["index"])  # (N,)
        if present.shape[0] >= self.bank.size:
            raise UserError(
                "The bank must hold more images than a batch, or there are no negatives. "
                f"Received: bank_size={self.bank.size}, {present.shape[0]} images in a batch. Lower the batch size."
            )
        return present, self.bank.look_up(views["index"]), self.bank.draw(self.num_negatives, present, self.step)

    def contrast(self, views, targets):
        queries = self.encoder(views["query"], training=True)  # (n, D)
        _, own, others = targets  # (N,), (n, D), (K, D)
        return [Contrast("query_to_bank", queries, *info_nce(queries, own, others, self.temperature))]

    def after_step(self, views, targets, contrasts):
        present, *_ = targets
        [contrast] = contrasts
        self.bank.update(present, distribution.all_gather(contrast.queries))

    def get_config(self):
        return {
            **super().get_config(),
            "bank_size": self.bank.size,
            "num_negatives": self.num_negatives,
            "bank_momentum": self.bank.momentum,
            "seed": self.bank.seed,
        }


class MemoryBankMethod(Method):
    def batch_norm(self, config, replicas):
        return shuffle_bn.Plain()

    def check(self, plan):
        if plan.config.batch_size >= plan.train_examples:
            raise UserError(
                "`batch_size` must be less than the number of training images, or there are no negatives. Received: "
                f"batch_size={plan.config.batch_size}, {plan.train_examples} images in {plan.config.dataset}. "
                "Lower --batch_size."
            )

    def chance_loss(self, plan):
        return math.log(1 + plan.config.num_negatives)

    def describe(self, plan):
        config, examples = plan.config, plan.train_examples
        return [
            f"bank: {examples:,} vectors of {size(examples, config)}, of which {config.num_negatives:,} are drawn in "
            "each step",
            f"loss: chance is {plan.chance_loss:.2f}",
        ]

    def build(self, plan, encoder):
        config = plan.config
        return MemoryBank(
            encoder,
            bank_size=plan.train_examples,
            num_negatives=config.num_negatives,
            bank_momentum=config.bank_momentum,
            temperature=config.temperature,
            seed=config.seed,
        )
