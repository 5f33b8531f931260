"""How modes tell and keep what they find."""

import contextlib
import shutil
import sys
import zlib

from keras_moco.evaluation import draw_confusion
from keras_moco.evaluation.unfinished import Unfinished

SHARE = 0.05  # of the time, which keeping an unfinished training may take


def unfinished(subject, mode, *part):
    """What a long training resumes from when it was interrupted: one of the same checkpoint, images and settings.

    Args:
        subject: `Subject`.
        mode: str, the name of the mode.
        *part: which of its trainings, where there are several.

    Returns:
        `Unfinished`, to be deleted when the figures are recorded.
    """
    train, weights = subject.train, subject.checkpoint["weights"]
    what = (mode, part, subject.config, train.name, train.num_examples, train.class_names, train.digests)
    return Unfinished(
        subject.place(f"unfinished_{mode}_{weights}_{zlib.crc32(repr(what).encode()):08x}.npz"), max_share=SHARE
    )


def drop_outdated(subject, mode):
    """Deletes what is left of unfinished trainings of other checkpoints, which nothing resumes from."""
    for path in subject.folder.glob(f"unfinished_{mode}_*"):
        if not path.name.startswith(f"unfinished_{mode}_{subject.checkpoint['weights']}_"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another process
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def draw_confusion_of(subject, name, labels, predicted):
    draw_confusion(subject.place(f"confusion_{name}.png"), labels, predicted, subject.train.class_names)


def told(accuracy):
    return f"top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %"


def rounded(accuracy):
    return [round(accuracy.top1, 2), round(accuracy.top5, 2)]


def verbosity():
    """How Keras's `fit` shows its progress: a bar on a terminal, a line per epoch elsewhere."""
    return "auto" if sys.stdout.isatty() else 2
