"""Looks at images before training: what they are, what cannot be read, what is there twice, which settings fit.

python -m keras_moco check folder:photos --out photos.png
"""

import argparse

from keras_moco.augment import RandomResizedCrop
from keras_moco.augment.narrow import narrow_from
from keras_moco.checks.ranges import check_number
from keras_moco.command_line.arguments import check_out, run_command
from keras_moco.config import Config
from keras_moco.data import open_source
from keras_moco.data.open import FORMS
from keras_moco.data.sample import finer_limits
from keras_moco.data.survey import SAMPLE, survey
from keras_moco.data.value_range import AUTO, USUAL
from keras_moco.errors import UserError
from keras_moco.storage.paths import user_path
from keras_moco.summaries.suggested_flags import suggested_flags
from keras_moco.summaries.survey_plot import draw_survey
from keras_moco.summaries.survey_text import describe_survey


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_moco check",
        description="Looks at all images before training: a report, settings that fit, and a picture.",
    )
    parser.add_argument("source", help=f"one of {', '.join(FORMS)}")
    parser.add_argument("--split", default="train", help="split of the source (default train)")
    parser.add_argument("--data_dir", help="folder of TensorFlow Datasets' data sets")
    parser.add_argument("--out", help="a PNG file to write: values, sizes, aspect ratios, classes (default: none)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"images to decode at most (default {SAMPLE})")
    parser.add_argument("--channels", type=int, help="as in train.py (default: those of the first image)")
    parser.add_argument("--value_range", default=Config.value_range, help="as in train.py (default auto)")
    parser.add_argument("--background", type=int, default=Config.background, help="as in train.py (default 255)")
    return parser


def _run(args):
    # All flags are checked before any work.
    out = None if args.out is None else user_path(args.out)
    if out:
        check_out(out, args.overwrite)
    check_number("sample", args.sample, "at least 1", "Correct --sample.", whole=True)
    shared = {name: getattr(args, name) for name in ("data_dir", "channels", "value_range", "background")}
    Config(**shared)  # checks their ranges
    source = open_source(args.source, args.split, **shared)
    if args.value_range == AUTO and (limits := finer_limits(source)):
        source, shared["value_range"] = source.in_range(limits), USUAL
    found = survey(source, args.sample)
    crop = RandomResizedCrop(Config.image_size)  # of crops as in the recipes of MoCo; its size changes no box
    narrow = narrow_from(crop, share=0.5), narrow_from(crop, share=1)
    print(describe_survey(found, narrow))
    print(f"\n{_settings(found, args, shared)}")
    if out:
        draw_survey(out, found, narrow)
        print(f"\nWrote {out}.")


def _settings(found, args, shared):
    """Lines of a flagfile, or why there are none."""
    if args.split != "train":
        return "Settings follow from the images to train on. Omit --split for them."
    try:
        flags = suggested_flags(found, Config(args.source, **shared))
        return "\n".join(["# Settings that fit, for a flagfile of train.py", *flags])
    except UserError as error:
        return f"No settings fit these images. {error}"


def main(argv=None):
    """Runs the command; returns its exit status."""
    return run_command(_parser(), _run, argv)
