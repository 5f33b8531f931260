"""Prints what a run would be, without opening data or writing files."""

import dataclasses
import math

from keras_moco.errors import UserError
from keras_moco.runs.backbone_notes import backbone_notes
from keras_moco.runs.build import build_augmentation, build_encoder, build_optimizer, precision
from keras_moco.runs.plan import Plan
from keras_moco.runs.versions import versions_line


def dry_run(config, replicas):
    """Prints what a run of `config` would be: settings, plan and sizes. Opens no data, writes nothing.

    Args:
        config: `Config`, whose `train_examples` and `channels` stand for the data.
        replicas: int, the number of replicas.

    Raises:
        ValueError: as `pretrain`.
    """
    if config.train_examples is None:
        raise UserError(
            "`train_examples` must be known for a dry run, since it opens no data. "
            f"Received: train_examples=None for {config.dataset}. Add --train_examples=N."
        )
    plan = Plan(config, config.train_examples, config.channels or 3, replicas)
    build_augmentation(config)
    build_optimizer(plan)
    with precision(config.precision):
        # Whose scaling, which may have to be measured first, changes no size.
        encoder = build_encoder(dataclasses.replace(plan.config, image_mean=(0.0,), image_std=(1.0,)), plan.channels)
    print(f"{versions_line()}\n\n--workdir={config.workdir}\n{plan.config.to_flagfile()}\n{plan.describe()}")
    print(
        f"parameters: {_parameters(encoder):,} in each encoder ({_parameters(encoder.backbone):,} in the backbone), "
        f"features of {encoder.feature_dim}, embeddings of {encoder.embedding_dim}"
    )
    for line in backbone_notes(plan.config, encoder):
        print(line)


def _parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
