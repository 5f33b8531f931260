"""An exercise: MoCo v3 (Chen, Xie, He: ICCV 2021, Algorithm 1) as a newcomer would add it, by hooks alone.

Without its factor of 2 T on the loss, which a learning rate takes over. tests/test_new_method.py trains with it.
"""

import keras
from keras import layers, ops

from keras_moco import distribution
from keras_moco.methods import Contrast, ContrastiveModel, InBatch, momentum_update
from keras_moco.methods.losses import in_batch
from keras_moco.networks import shuffle_bn
from keras_moco.networks.weights import duplicate

DIRECTIONS = [("query", "key"), ("key", "query")]


@keras.saving.register_keras_serializable(package="new_method")
class MoCoV3(ContrastiveModel):
    """Queries pass a predictor and are compared with the keys of a momentum encoder, in both directions."""

    def __init__(self, encoder, momentum=0.99, temperature=0.2, **kwargs):
        losses = [f"loss_{q}_to_{k}" for q, k in DIRECTIONS]
        super().__init__(encoder, temperature, shuffle_bn.Plain(synchronized=True), logs=losses, **kwargs)
        self.momentum = momentum
        self.key_encoder = duplicate(encoder, "key_encoder")
        for variable in self.key_encoder.variables:
            variable.trainable = False
        width = encoder.embedding_dim
        hidden = [layers.Dense(4 * width, use_bias=False), layers.BatchNormalization(), layers.ReLU()]
        output = [layers.Dense(width), layers.UnitNormalization()]
        self.predictor = keras.Sequential([keras.Input([width]), *hidden, *output], name="predictor")
        self.built = True

    def before_step(self):
        momentum_update(target=self.key_encoder, source=self.encoder, momentum=self.momentum)

    def encode_targets(self, views):
        keys = [self.key_encoder(views[key], training=True) for _, key in DIRECTIONS]  # each (n, D)
        return [distribution.all_gather(key) for key in keys]  # each (N, D)

    def contrast(self, views, targets):
        own = distribution.local_slice(ops.arange(targets[0].shape[0]))
        return [
            self._look_up(f"{query}_to_{key}", views[query], keys, own)
            for (query, key), keys in zip(DIRECTIONS, targets, strict=True)
        ]

    def _look_up(self, name, images, keys, own):
        queries = self.predictor(self.encoder(images, training=True), training=True)  # (n, D)
        return Contrast(name, queries, *in_batch(queries, keys, own, self.temperature))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


class MomentumInBatch(InBatch):
    model = MoCoV3
    arguments = {"momentum": "key_momentum", "temperature": "temperature"}
    settings = ("key_momentum",)

    def batch_norm(self, config, replicas):
        return shuffle_bn.Plain(synchronized=True)

    def num_negatives(self, config):
        return config.batch_size - 1

    def chance_loss(self, plan):
        return len(DIRECTIONS) * super().chance_loss(plan)
