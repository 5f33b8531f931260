"""What a backbone from elsewhere needs, and what is done about it, in words."""

from keras_moco.networks import by_name
from keras_moco.networks.encoder import features_shape_of, per_channel, scales_images
from keras_moco.networks.seeds import seed_generators
from keras_moco.networks.shuffle_bn import batch_norm_layers, can_split


def backbone_notes(config, encoder, batch_norm=None):
    """Lines on the backbone of a run for people: its features, scaling, random layers and BatchNorm.

    Args:
        config: `Config`.
        encoder: `Encoder` of the run.
        batch_norm: `BatchGrouping` of the model. Defaults to `None`: unknown.

    Returns:
        list of str, empty for one of our own backbones.
    """
    if by_name.is_ours(config.backbone):
        return []
    _, *places, features = features_shape_of(encoder.backbone)
    size = " x ".join("any size" if length is None else str(length) for length in places)
    pooled = {0: "as it returns them", 1: f"the mean of {size} tokens, a class token included"}
    lines = [f"backbone: {features:,} features, {pooled.get(len(places), f'the mean of feature maps of {size}')}"]
    if scales_images(encoder.backbone):
        lines.append("scaling: by the backbone itself; --image_mean and --image_std have no effect")
    elif _is_scaled_for_weights(config, encoder):
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (encoder.mean, encoder.std))
        lines.append(
            f"scaling: that of its weights, mean {mean}, std {std}; --image_mean and --image_std have no effect"
        )
    if layers := len(seed_generators(encoder.backbone)):
        lines.append(
            f"dropout or stochastic depth: {layers} layer(s), also active in the key encoder, with other random numbers"
        )
    return [*lines, *_on_batch_norm(config, encoder, batch_norm)]


def _is_scaled_for_weights(config, encoder):
    channels = encoder.image_shape[-1]
    given = [per_channel(name, getattr(config, f"image_{name}"), channels) for name in ("mean", "std")]
    return given != [encoder.mean, encoder.std]


def _on_batch_norm(config, encoder, batch_norm):
    layers = batch_norm_layers(encoder)
    if not layers:
        yield "BatchNorm: none in the encoder, so that nothing is split or shuffled"
        return
    fixed = [layer for layer in layers if not can_split(layer)]
    if fixed and config.bn_mode == "auto" and batch_norm is not None and batch_norm.splits == 1:
        yield (
            f"note: {len(fixed)} of {len(layers)} BatchNorm layers cannot be split, such as {fixed[0].name!r} of class "
            f"{type(fixed[0]).__name__}. On one replica a query and its key therefore share their statistics, by which "
            "they can be found without looking at the images; several replicas are shuffled"
        )
    if batch_norm is not None:
        yield f"BatchNorm: {len(layers)} layers, {batch_norm.describe()}"
