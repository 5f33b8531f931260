"""SimCLR: both views of every other image in the batch."""

from keras_moco import batch_norm
from keras_moco.methods.in_batch import InBatch
from keras_moco.models import SimCLR


class SimpleContrast(InBatch):
    def batch_norm(self, config, replicas):
        return batch_norm.Plain(synchronized=True)

    def num_negatives(self, config):
        return 2 * config.batch_size - 2

    def build(self, plan, encoder):
        return SimCLR(encoder, temperature=plan.config.temperature)
