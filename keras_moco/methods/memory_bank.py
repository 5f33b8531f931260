"""The memory bank: the dictionary is sampled from the vectors that the training images had when last seen."""

import math
from typing import Any

import keras

from keras_moco import distribution
from keras_moco.errors import UserError
from keras_moco.layers import FeatureBank
from keras_moco.methods.base import Method, size
from keras_moco.methods.contrastive_model import ContrastiveModel
from keras_moco.methods.losses import Contrast, info_nce
from keras_moco.networks import shuffle_bn
from keras_moco.networks.encoder import Encoder


@keras.saving.register_keras_serializable(package="keras_moco")
class MemoryBank(ContrastiveModel):
    """Contrasts each image with its own vector in a bank and with those of random others (MoCo, Fig. 2b and sec. 4.1).

    The dictionary can be large at little cost, but is inconsistent: its vectors come from the encoder at different
    steps of the past epoch. The loss is InfoNCE, as in the paper's comparison; Wu et al. 2018 used NCE. One view of an
    image is encoded per step, without a key encoder, and BatchNorm needs no shuffling, since positives come from other
    mini-batches (the paper, sec. 4.1).

    The negatives are sampled once for the whole batch, with replacement, from all images outside of it; the code of Wu
    et al. samples for each query, which takes `n` times the memory and may return the query's own image.

    Args:
        encoder: the `Encoder`, of any backbone.
        bank_size: positive int, the number of training images. Every image of a batch has an `"index"` below it.
        num_negatives: positive int, `K`. Defaults to `4096` (Wu et al. 2018; the paper goes up to 65536).
        bank_momentum: float in `[0, 1]`, momentum of the bank's vectors. Defaults to `0.5` (the code of Wu et al.).
        temperature: positive float, `T`. Defaults to `0.07` (both papers).
        seed: int, the seed of the bank's initial vectors and of the sampled negatives. Defaults to `0`.
        **kwargs: keyword arguments of `keras.Model`.

    Raises:
        ValueError: if an argument is out of its range; in the first step, if batches have no `"index"`, or hold as
            many images as the bank; in any step, if an index is outside of the bank (not checked on TPU).

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

    def __init__(
        self,
        encoder: Encoder,
        bank_size: int,
        num_negatives: int = 4096,
        bank_momentum: float = 0.5,
        temperature: float = 0.07,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, temperature, **kwargs)
        if int(num_negatives) != num_negatives or num_negatives < 1:
            raise UserError(
                f"`num_negatives` must be a positive integer. Received: num_negatives={num_negatives}. "
                "Wu et al. use 4096."
            )
        self.num_negatives = int(num_negatives)
        self.bank = FeatureBank(bank_size, encoder.embedding_dim, bank_momentum, seed, name="bank")
        self.built = True

    def encode_targets(self, views: dict[str, Any]) -> Any:
        present = distribution.all_gather(views["index"])  # (N,)
        _check_others(present.shape[0], self.bank.size)
        return present, self.bank.look_up(views["index"]), self.bank.draw(self.num_negatives, present, self.step)

    def contrast(self, views: dict[str, Any], targets: Any) -> list[Contrast]:
        queries = self.encoder(views["query"], training=True)  # (n, D)
        _, own, others = targets  # (N,), (n, D), (K, D)
        return [Contrast("query_to_bank", queries, *info_nce(queries, own, others, self.temperature))]

    def after_step(self, views: dict[str, Any], targets: Any, contrasts: list[Contrast]) -> None:
        present, *_ = targets
        [contrast] = contrasts
        self.bank.update(present, distribution.all_gather(contrast.queries))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "bank_size": self.bank.size,
            "num_negatives": self.num_negatives,
            "bank_momentum": self.bank.momentum,
            "seed": self.bank.seed,
        }


class MemoryBankMethod(Method):
    model = MemoryBank
    arguments = {name: name for name in ("num_negatives", "bank_momentum", "temperature", "seed")}

    def batch_norm(self, config, replicas):
        return shuffle_bn.Plain()

    def check(self, plan):
        _check_others(plan.config.batch_size, plan.train_examples)

    def chance_loss(self, plan):
        return math.log(1 + plan.config.num_negatives)

    def describe(self, plan):
        config, examples = plan.config, plan.train_examples
        return [
            f"bank: {examples:,} vectors of {size(examples, config)}, of which each step samples "
            f"{config.num_negatives:,}",
            f"loss: {plan.chance_loss:.2f} at chance level",
        ]

    def build(self, plan, encoder):
        return super().build(plan, encoder, bank_size=plan.train_examples)


def _check_others(batch_size, images):
    """Raises `ValueError` if a global batch holds all training images, so that there are no negatives."""
    if batch_size >= images:
        raise UserError(
            "The number of training images must exceed the batch size, or there are no negatives. "
            f"Received: bank_size={images}, {batch_size} images in a batch. Lower the batch size."
        )
