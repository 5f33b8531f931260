"""A run that is stopped by signals repeatedly within one process: python -m tests.stops WORKDIR EPOCHS STEPS...

Prints, after each stop and after the end, what the process holds: `{"mib": ..., "descriptors": ...}`.
"""

import gc
import itertools
import json
import os
import signal
import sys

from keras_moco import callbacks
from keras_moco.augment import compiled
from keras_moco.commands import pretrain
from tests.tiny import tiny_config
from tests.whole_runs import without_pictures_and_export

SIGNALS = itertools.cycle([signal.SIGTERM, signal.SIGHUP, signal.SIGINT])


class SignalAt(callbacks.Stopping):
    """As `Stopping`, and sends a signal after each of the next steps."""

    steps: list = []

    def on_train_batch_end(self, batch, logs=None):
        if self.steps and self.model.steps_done >= self.steps[0]:
            self.steps.pop(0)
            os.kill(os.getpid(), next(SIGNALS))
        super().on_train_batch_end(batch, logs)


def held():
    """Memory and descriptors of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {"mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "descriptors": len(os.listdir("/proc/self/fd"))}


def main(workdir, epochs, *steps):
    compiled.has_xla = lambda: False
    SignalAt.steps = list(map(int, steps))
    callbacks.Stopping = SignalAt
    config = tiny_config(workdir, epochs=int(epochs))
    while True:
        try:
            with without_pictures_and_export():
                pretrain.pretrain(config)
        except callbacks.Stopped as stopped:
            print(stopped, file=sys.stderr)
            print(json.dumps(held()), flush=True)
        else:
            print(json.dumps(held()), flush=True)
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which background processes ignore by default
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` ignores
    main(*sys.argv[1:])
