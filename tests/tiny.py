"""A configuration that trains in a second, for tests of whole runs in which the network does not matter."""

from keras_moco.config import Config
from keras_moco.networks import RESNETS
from keras_moco.networks.resnet import _basic_block

# One block: two epochs of `tiny_config` are mostly the tracing of two encoders, and this one is traced in a third of
# the time of a ResNet-10. Known in this process alone; tests/processes.py starts `train.py` with it.
RESNETS.setdefault("tiny", (_basic_block, (1,)))

TINY_RUN = dict(
    dataset="digits",
    image_mean=(0.3,),
    image_std=(0.38,),
    backbone="tiny",
    backbone_width=8,
    stem="cifar",
    bn_splits=4,
    embedding_dim=16,
    queue_size=500,  # no multiple of the batch
    key_momentum=0.99,
    temperature=0.1,
    augment="moco_cifar",
    crop_min_area=0.4,
    image_size=8,
    batch_size=128,
    epochs=2,
    base_learning_rate=0.1,
    schedule="cosine",
    schedule_per_step=True,
    strategy="one",
    knn_k=20,
    knn_features="backbone",
    checkpoint_share=1.0,  # after every epoch, although epochs are short
    log_steps=5,
)


def tiny_config(workdir, **settings):
    """`TINY_RUN` in a folder, with other settings where they are given."""
    return Config(**{**TINY_RUN, "workdir": str(workdir), **settings})
