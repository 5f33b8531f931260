"""The export of the backbone: as SavedModel and .keras file, again, or in another form, by the registry `FORMS`."""

import importlib

from keras_moco.errors import UserError
from keras_moco.export import export_backbone
from keras_moco.networks import Encoder
from keras_moco.networks.raw_values import takes_raw_values

SETTINGS = ("to", "overwrite")

# What `to` may name before the colon: a module with `check(path, overwrite)`, which refuses a path before any work, and
# `write(target, path)`.
FORMS = {"hf": "keras_moco.evaluation.hub_folder"}


def check(config):
    """Refuses settings before the encoder is loaded."""
    if config.to is not None:
        form, path = _form_of(config.to)
        form.check(path, config.overwrite)
    elif config.overwrite:
        raise UserError(
            "`overwrite` must be given with --to; the export of a run is always replaced. "
            "Received: overwrite=True without --to. Omit --overwrite."
        )


def run(target):
    """`evaluate.py export`: into the folder of the model card, or where --to says."""
    if target.config.to is not None:
        form, path = _form_of(target.config.to)
        form.write(target, path)
        return
    encoder = target.encoder  # for images in 0..255, as they are read here
    if not isinstance(encoder, Encoder):
        encoder = takes_raw_values(encoder, target.value_range)
    folder = export_backbone(encoder, target.output.card.parent, target.value_range)
    print(f"exported to {folder}")


def _form_of(to):
    name, _, path = to.partition(":")
    if name not in FORMS or not path:
        raise UserError(
            f"`to` must be {' or '.join(f'{form}:FOLDER' for form in FORMS)}. Received: to={to!r}. "
            "Write for example --to=hf:my_backbone."
        )
    return importlib.import_module(FORMS[name]), path
