"""How modes tell and keep what they find."""

import sys
import zlib

import keras

from keras_moco.evaluation import draw_confusion


def backup(subject, mode):
    """Has a long training go on after a stop, from its last epoch; under other settings it begins anew."""
    settings = f"{zlib.crc32(repr((mode, subject.config)).encode()):08x}"
    return keras.callbacks.BackupAndRestore(str(subject.place(f"unfinished_{mode}_{settings}")))


def draw_confusion_of(subject, name, labels, predicted):
    draw_confusion(subject.place(f"confusion_{name}.png"), labels, predicted, subject.train.class_names)


def told(accuracy):
    return f"top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %"


def rounded(accuracy):
    return [round(accuracy.top1, 2), round(accuracy.top5, 2)]


def verbosity():
    """How Keras's `fit` shows its progress: a bar on a terminal, a line per epoch elsewhere."""
    return "auto" if sys.stdout.isatty() else 2
