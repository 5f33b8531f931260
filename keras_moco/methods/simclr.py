"""SimCLR (Chen, Kornblith, Norouzi, Hinton: ICML 2020)."""

from typing import Any

import keras
from keras import ops

from keras_moco import distribution
from keras_moco.methods.base import InBatch, check_others
from keras_moco.methods.contrastive_model import ContrastiveModel
from keras_moco.methods.losses import Contrast, nt_xent
from keras_moco.networks import shuffle_bn
from keras_moco.networks.encoder import Encoder


@keras.saving.register_keras_serializable(package="keras_moco")
class SimCLR(ContrastiveModel):
    """Contrasts both views of each image with all views of the other images in the batch (SimCLR, Algorithm 1).

    N images over all replicas are 2 N views; each has one positive and 2 N - 2 negatives. Both views pass through the
    encoder as one batch, and BatchNorm shares its statistics over all of them on all replicas ("global BN", sec. 2.2).

    The loss is the mean over the 2 N views, as in the paper. The official code (`tf2/objective.py`) sums the means over
    first and over second views, which is twice as much; with LARS only biases and BatchNorm notice the difference.

    Args:
        encoder: the `Encoder`, of any backbone; its head is `simclr_head` in the official code.
        temperature: positive float, tau in the paper. Defaults to `0.1` (ImageNet; CIFAR-10 uses `0.5`, appendix B.9).
        **kwargs: keyword arguments of `keras.Model`.

    Raises:
        ValueError: if an argument is out of its range; in the first step, if the global batch is a single image.

    Example:

    ```python
    model = SimCLR(Encoder(resnet("resnet18", stem="cifar"), simclr_head(512), mean=0, std=1), temperature=0.5)
    model.compile(optimizer=LARS(learning_rate("cosine", 2.0, epochs=1000, steps_per_epoch=97, warmup_epochs=10)))
    model.fit(batches_of_query_and_key, epochs=1000)
    ```
    """

    def __init__(self, encoder: Encoder, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(encoder, temperature, shuffle_bn.Plain(synchronized=True), **kwargs)
        self.built = True

    def contrast(self, views: dict[str, Any], targets: Any) -> list[Contrast]:
        both = self.encoder(ops.concatenate([views["query"], views["key"]]), training=True)  # (2 n, D)
        first, second = ops.split(both, 2)
        every_first, every_second = map(distribution.all_gather, (first, second))  # (N, D)
        check_others(every_first.shape[0])
        own = distribution.local_slice(ops.arange(every_first.shape[0]))
        from_first = nt_xent(first, every_second, every_first, own, self.temperature)
        from_second = nt_xent(second, every_first, every_second, own, self.temperature)
        logits, labels = map(ops.concatenate, zip(from_first, from_second, strict=True))  # (2 n, 2 N - 1), (2 n,)
        return [Contrast("view_to_view", both, logits, labels)]


class SimCLRMethod(InBatch):
    model = SimCLR

    def batch_norm(self, config, replicas):
        return shuffle_bn.Plain(synchronized=True)

    def num_negatives(self, config):
        return 2 * config.batch_size - 2
