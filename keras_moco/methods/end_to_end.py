"""End-to-end training: the keys of the batch, with gradient."""

from keras_moco.methods.in_batch import InBatch
from keras_moco.models import EndToEnd


class EndToEndContrast(InBatch):
    settings = ("separate_encoders", "bn_mode", "bn_splits")

    def num_negatives(self, config):
        return config.batch_size - 1

    def build(self, plan, encoder):
        config = plan.config
        return EndToEnd(
            encoder,
            temperature=config.temperature,
            shared=not config.separate_encoders,
            bn_mode=config.bn_mode,
            bn_splits=config.bn_splits,
            seed=config.seed,
        )
