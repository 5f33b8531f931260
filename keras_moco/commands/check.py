"""Looks at images before training: what they are, what cannot be read, what is there twice, which settings fit.

keras-moco check folder:photos --out photos.png
"""

from keras_moco.augment import RandomResizedCrop
from keras_moco.augment.narrow import narrow_from
from keras_moco.command_line.parsers import settings_of_images
from keras_moco.commands.registry import COMMANDS
from keras_moco.config import Config
from keras_moco.data import open_source
from keras_moco.data.sample import finer_limits
from keras_moco.data.survey import survey
from keras_moco.data.value_range import AUTO, USUAL
from keras_moco.errors import UserError
from keras_moco.storage.paths import user_path
from keras_moco.summaries.suggested_flags import suggested_flags
from keras_moco.summaries.survey_plot import draw_survey
from keras_moco.summaries.survey_text import describe_survey


def work(args):
    """Prints the report; draws the picture if one is asked for."""
    shared = settings_of_images(args)
    source = open_source(args.source, args.split, **shared)
    if args.value_range == AUTO and (limits := finer_limits(source)):
        source, shared["value_range"] = source.in_range(limits), USUAL
    found = survey(source, args.sample)
    crop = RandomResizedCrop(Config.image_size)  # of crops as in the recipes of MoCo; its size changes no box
    narrow = narrow_from(crop, share=0.5), narrow_from(crop, share=1)
    print(describe_survey(found, narrow))
    print(f"\n{_settings(found, args, shared)}")
    if args.out is not None:
        out = user_path(args.out)
        draw_survey(out, found, narrow)
        print(f"\nWrote {out}.")


def _settings(found, args, shared):
    """Lines of a flagfile, or why there are none."""
    if args.split != "train":
        return "Settings follow from the images to train on. Omit --split for them."
    try:
        flags = suggested_flags(found, Config(args.source, **shared))
        return "\n".join(["# Settings that fit, for a flagfile of pretrain", *flags])
    except UserError as error:
        return f"No settings fit these images. {error}"


def main(argv=None):
    """Runs the command; returns its exit status."""
    return COMMANDS["check"].main(argv)
