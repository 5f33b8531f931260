"""Momentum Contrast (He, Fan, Wu, Xie, Girshick: CVPR 2020)."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_moco import distribution
from keras_moco.checks.ranges import check_number
from keras_moco.errors import UserError
from keras_moco.layers.feature_queue import FeatureQueue, check_room
from keras_moco.methods.base import Method, size
from keras_moco.methods.contrastive_model import ContrastiveModel
from keras_moco.methods.losses import Contrast, info_nce
from keras_moco.networks import shuffle_bn
from keras_moco.networks.encoder import Encoder
from keras_moco.networks.weights import duplicate, follow_frozen, weight_pairs

QUERY_TO_KEY = ("query", "key")
KEY_TO_QUERY = ("key", "query")
SYNCHRONIZED_NOTE = (
    "bn_mode='sync' is not sufficient with a queue, say the authors of MoCo (issue 46 of their repository): keys in "
    "the queue carry the statistics of other batches. The paper uses 'shuffle'."
)


@keras.saving.register_keras_serializable(package="keras_moco")
class MoCo(ContrastiveModel):
    """Momentum Contrast: a query encoder learns to find each image's key among those of a long queue.

    One training step (Algorithm 1 of the paper; order as in the official `moco/builder.py`, where at the first step
    the momentum update changes nothing):

    1. The key encoder moves towards the query encoder (`before_step`).
    2. Keys of the second views are encoded without gradient, the batch shuffled for BatchNorm (`encode_targets`).
    3. Queries of the first views are compared with their own keys and with those in the queue, which does not hold this
       batch yet (`contrast`).
    4. The optimizer takes a gradient step on the query encoder.
    5. The keys replace the oldest ones in the queue (`after_step`).

    MoCo v1 and v2 differ in the encoder's head, the augmentation, the temperature and the schedule only.

    Args:
        encoder: the query `Encoder`, of any backbone. The key encoder is made as an exact copy.
        queue_size: positive int, `K`. Defaults to `65536` (the paper; the CIFAR-10 demo uses `4096`).
        momentum: float in `[0, 1]` or a schedule over steps, the momentum `m` of the key encoder. Defaults to `0.999`
            (the paper; the CIFAR-10 demo uses `0.99`). A ramp from `m` to 1 is `CosineDecay(m, steps, alpha=1 / m)`.
        temperature: positive float, `T`. Defaults to `0.07` (MoCo v1; v2 uses `0.2`, the CIFAR-10 demo `0.1`).
        symmetric: bool. Also use second views as queries and first views as keys: one momentum update, both
            losses against the same queue, `2 n` keys enqueued. The loss is the sum of both, not their mean, as in the
            CIFAR-10 demo; the learning rates of other recipes may need halving. Defaults to `False`.
        bn_mode: str, which images share BatchNorm statistics, so that those of a batch do not reveal its pairs:
            `"split"`, `"shuffle"`, `"sync"` or `"plain"`, see `keras_moco.networks.shuffle_bn.resolve`. It applies to
            all BatchNorm layers of `encoder`. Defaults to `"auto"`: `"split"` on one replica (the CIFAR-10 demo),
            `"shuffle"` on several (sec. 3.3), `"plain"` for an encoder without BatchNorm layers, or with layers that
            cannot be split on one replica.
        bn_splits: positive int, groups of `"split"` in the batch of each replica. Defaults to `8` (the CIFAR-10 demo).
        seed: int, the seed of the shuffle and of the queue's initial content. Defaults to `0`.
        **kwargs: keyword arguments of `keras.Model`.

    Raises:
        ValueError: if an argument is out of its range, or if a BatchNorm layer that cannot split its batch would have
            to; in the first step, if a batch has more keys than the queue, if `bn_splits` does not divide it, or for
            `bn_mode="shuffle"` on one replica.

    Example:

    ```python
    encoder = Encoder(resnet("resnet18", stem="cifar"), linear_head(512))
    model = MoCo(encoder, queue_size=4096, momentum=0.99, temperature=0.1)
    model.compile(optimizer=SGD(0.03, weight_decay=5e-4))
    model.fit(batches_of_query_and_key, epochs=200)
    ```
    """

    def __init__(
        self,
        encoder: Encoder,
        queue_size: int = 65536,
        momentum: float | Callable[[Any], Any] = 0.999,
        temperature: float = 0.07,
        symmetric: bool = False,
        bn_mode: str = "auto",
        bn_splits: int = 8,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        directions = [QUERY_TO_KEY, KEY_TO_QUERY] if symmetric else [QUERY_TO_KEY]
        losses = [f"loss_{query}_to_{key}" for query, key in directions if symmetric]
        groups = shuffle_bn.resolve(bn_mode, bn_splits, distribution.num_replicas(), encoder)
        super().__init__(encoder, temperature, groups, logs=("queue_fill", "key_momentum", *losses), **kwargs)
        if not callable(momentum):
            check_number("momentum", momentum, "in [0, 1]", "The paper uses 0.999.")
        self.momentum = momentum
        self.directions = directions
        self.seed = seed
        self.bn_mode = bn_mode
        self.bn_splits = bn_splits
        if self.batch_norm.synchronized:
            warnings.warn(SYNCHRONIZED_NOTE, stacklevel=2)
        self.key_encoder = duplicate(encoder, "key_encoder")
        follow_frozen(self.key_encoder, encoder)
        dtype = encoder.full_precision
        self.queue = FeatureQueue(queue_size, encoder.embedding_dim, seed=seed, dtype=dtype, name="queue")
        self.built = True

    # Algorithm 1. The optimizer takes its step between `contrast` and `after_step`.

    def before_step(self) -> None:
        momentum_update(target=self.key_encoder, source=self.query_encoder, momentum=self.key_momentum)

    def encode_targets(self, views: dict[str, Any]) -> Any:
        return [self._encode_keys(views[key]) for _, key in self.directions]  # each (N, D)

    def _encode_keys(self, images):
        """Keys of the global batch, `(N, D)`, each in a BatchNorm group of other images than its query."""
        images, order = self.batch_norm.shuffle(images, self.seed, self.step)
        keys = self.key_encoder(images, training=True)
        return ops.stop_gradient(self.batch_norm.unshuffle(keys, order))

    def contrast(self, views: dict[str, Any], targets: Any) -> list[Contrast]:
        negatives = ops.convert_to_tensor(self.queue.features)  # (K, D), read once: it is copied
        return [
            self._look_up(f"{query}_to_{key}", self.query_encoder(views[query], training=True), keys, negatives)
            for (query, key), keys in zip(self.directions, targets, strict=True)
        ]

    def _look_up(self, name, queries, keys, negatives):
        logits, labels = info_nce(queries, distribution.local_slice(keys), negatives, self.temperature)
        return Contrast(name, queries, logits, labels)

    def after_step(self, views: dict[str, Any], targets: Any, contrasts: list[Contrast]) -> None:
        self.queue.enqueue(ops.concatenate(targets))

    @property
    def query_encoder(self) -> Encoder:
        """The encoder that is trained, and whose features are used afterwards."""
        return self.encoder

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The query encoder's: neither gradient, nor weight decay, nor optimizer state for the key encoder."""
        return self.query_encoder.trainable_variables

    @property
    def key_momentum(self) -> Any:
        """The momentum `m` at the current step, a scalar."""
        return self.momentum(self.step) if callable(self.momentum) else self.momentum

    def monitor(self) -> dict[str, Any]:
        return {"queue_fill": self.queue.fill, "key_momentum": self.key_momentum}

    def make_train_function(self, force: bool = False) -> None:
        follow_frozen(self.key_encoder, self.query_encoder)  # of which parts may have been frozen since
        super().make_train_function(force)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "queue_size": self.queue.size,
            "momentum": keras.saving.serialize_keras_object(self.momentum),
            "symmetric": KEY_TO_QUERY in self.directions,
            "bn_mode": self.bn_mode,
            "bn_splits": self.bn_splits,
            "seed": self.seed,
        }


def momentum_update(target: keras.layers.Layer, source: keras.layers.Layer, momentum: Any) -> None:
    """`target <- momentum * target + (1 - momentum) * source`, parameters only (MoCo, eq. 2).

    BatchNorm's moving statistics are not parameters: the key encoder accumulates its own from the keys it encodes, as
    in the official code, where `parameters()` excludes buffers (`moco/builder.py`).

    Args:
        target, source: key encoder and query encoder, of the same architecture.
        momentum: float or scalar tensor in `[0, 1]`, `m` in the paper.
    """
    for query, key in weight_pairs(source, target):
        if query.trainable:
            key.assign(key * momentum + query * (1.0 - momentum))


PAPER = 65536  # keys (MoCo, sec. 4.1)


class MoCoMethod(Method):
    model = MoCo
    arguments = {
        "momentum": "key_momentum",
        **{name: name for name in ("queue_size", "temperature", "symmetric", "bn_mode", "bn_splits", "seed")},
    }

    def settled(self, config, train_examples):
        """The queue size: a fifth of the images in whole steps, but at least one step and at most the paper's size.

        With more than a fifth it would hold many views of the query's own image (see `describe`). It is a whole number
        of steps, so that all keys are replaced after the same number of steps.
        """
        if config.queue_size is not None:
            return {}
        keys = config.batch_size * self._directions(config)
        fifth = train_examples // 5 // keys * keys
        return {"queue_size": min(max(keys, min(fifth, PAPER)), train_examples)}

    def check(self, plan):
        config, examples = plan.config, plan.train_examples
        if config.queue_size > examples:
            raise UserError(
                "`queue_size` must not exceed the number of training images, or an image meets itself as a negative. "
                f"Received: queue_size={config.queue_size}, {examples} images in {config.dataset}. Lower --queue_size."
            )
        check_room(config.queue_size, config.batch_size * self._directions(config))

    def chance_loss(self, plan):
        return math.log(1 + plan.config.queue_size) * self._directions(plan.config)

    def describe(self, plan):
        config = plan.config
        share = config.queue_size / plan.train_examples
        lines = [
            f"queue: {config.queue_size:,} keys of {size(config.queue_size, config)}, {share:.0%} of the training "
            "images",
            f"loss: {plan.chance_loss:.2f} at chance level, {'2 ' if config.symmetric else ''}ln(K + 1); it starts "
            "lower, and rises while real keys fill the queue",
        ]
        if "queue_size" in plan.settled and config.queue_size < PAPER:
            lines.append(
                f"note: --queue_size was not given; it is {config.queue_size:,}, a fifth of the images in whole steps "
                f"(at least one), in place of the paper's {PAPER:,}"
            )
        if share > 0.2:
            flag = "--batch_size" if "queue_size" in plan.settled else "--queue_size"
            lines.append(
                f"note: above 20 % the queue holds many views of the query's own image; consider a smaller {flag}"
            )
        if plan.batch_norm.synchronized:
            lines.append(f"note: {SYNCHRONIZED_NOTE}")
        return lines

    def _directions(self, config):
        return 2 if config.symmetric else 1
