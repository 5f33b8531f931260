"""The end-to-end mechanism: the dictionary is the mini-batch, and gradient flows into queries and keys."""

from typing import Any

import keras
from keras import ops

from keras_moco import distribution
from keras_moco.methods.base import InBatch, check_others
from keras_moco.methods.contrastive_model import ContrastiveModel
from keras_moco.methods.losses import Contrast, in_batch
from keras_moco.networks import shuffle_bn
from keras_moco.networks.encoder import Encoder
from keras_moco.networks.weights import duplicate


@keras.saving.register_keras_serializable(package="keras_moco")
class EndToEnd(ContrastiveModel):
    """Contrasts each image with the others of its batch, and learns from both sides (MoCo, Fig. 2a and sec. 4.1).

    The dictionary is fully consistent, since all of its keys are encoded in the current step, but no larger than the
    batch that fits into memory: N images over all replicas give N - 1 negatives. The learning rate must grow with the
    batch (Goyal et al. 2017; without that the paper loses 2 % at 1024).

    Args:
        encoder: the query `Encoder`, of any backbone.
        temperature: positive float, `T`. Defaults to `0.07` (the paper).
        shared: bool. `True`: one encoder for queries and keys; `False`: a key encoder with weights of its own, which
            begins as a copy and is trained too ("can be different", Fig. 2). Defaults to `True`.
        bn_mode: str, which images share BatchNorm statistics, see `keras_moco.networks.shuffle_bn.resolve`. Defaults
            to `"auto"`, as of `MoCo`; the paper shuffles here as in MoCo (sec. 3.3).
        bn_splits: positive int, groups of `"split"` in the batch of each replica. Defaults to `8`.
        seed: int, the seed of the shuffle. Defaults to `0`.
        **kwargs: keyword arguments of `keras.Model`.

    Raises:
        ValueError: if an argument is out of its range; in the first step, if the global batch is a single image,
            `bn_splits` does not divide it, or for `bn_mode="shuffle"` on one replica.

    Example:

    ```python
    model = EndToEnd(Encoder(resnet("resnet18", stem="cifar"), linear_head(512)), temperature=0.1)
    model.compile(optimizer=SGD(0.03 * 1024 / 256))
    model.fit(batches_of_query_and_key, epochs=200)  # of 1024 images: 1023 negatives
    ```
    """

    def __init__(
        self,
        encoder: Encoder,
        temperature: float = 0.07,
        shared: bool = True,
        bn_mode: str = "auto",
        bn_splits: int = 8,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        groups = shuffle_bn.resolve(bn_mode, bn_splits, distribution.num_replicas(), encoder)
        super().__init__(encoder, temperature, groups, **kwargs)
        self.seed = seed
        self.bn_mode = bn_mode
        self.bn_splits = bn_splits
        self.separate_key_encoder = None if shared else duplicate(encoder, "key_encoder")
        self.built = True

    @property
    def key_encoder(self) -> Encoder:
        """The encoder of the keys: the query encoder if it is shared."""
        return self.encoder if self.separate_key_encoder is None else self.separate_key_encoder

    def contrast(self, views: dict[str, Any], targets: Any) -> list[Contrast]:
        queries = self.encoder(views["query"], training=True)  # (n, D)
        keys = self._encode_keys(views["key"])  # (N, D)
        check_others(keys.shape[0])
        logits, labels = in_batch(queries, keys, distribution.local_slice(ops.arange(keys.shape[0])), self.temperature)
        return [Contrast("query_to_key", queries, logits, labels)]

    def _encode_keys(self, images):
        """Keys of the global batch, each in a BatchNorm group of other images than its query."""
        images, order = self.batch_norm.shuffle(images, self.seed, self.step)
        return self.batch_norm.unshuffle(self.key_encoder(images, training=True), order)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "shared": self.separate_key_encoder is None,
            "bn_mode": self.bn_mode,
            "bn_splits": self.bn_splits,
            "seed": self.seed,
        }


class EndToEndMethod(InBatch):
    model = EndToEnd
    arguments = {name: name for name in ("temperature", "bn_mode", "bn_splits", "seed")}

    def num_negatives(self, config):
        return config.batch_size - 1

    def build(self, plan, encoder):
        return super().build(plan, encoder, shared=not plan.config.separate_encoders)
