"""What a worker does besides training: the chief prints, and reads and writes the run's folder; the others do not."""

import contextlib
import dataclasses
import time

from keras_moco import callbacks, distribution
from keras_moco.callbacks.optional_output import warn_if_not_written
from keras_moco.commands import resume
from keras_moco.commands.build_callbacks import build_callbacks, build_monitor, build_representation_monitor
from keras_moco.config import EvaluationConfig
from keras_moco.errors import UserError
from keras_moco.evaluation.knn import USUAL_K, told_usual_k, usual_k
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.target import Subject
from keras_moco.export.backbone import export_backbone
from keras_moco.runs.load import initial_weights
from keras_moco.runs.versions import versions
from keras_moco.summaries.closing import closing_lines
from keras_moco.summaries.showing import show_end, show_start


@contextlib.contextmanager
def worker_of(strategy, run):
    """This process among the workers of a strategy: the `Chief`, which locks the folder, or another `Worker`."""
    if distribution.is_chief(strategy):
        with run.locked() as check_in_place:
            yield Chief(run, check_in_place)
    else:
        yield Worker()


class Worker:
    """A worker that only trains. Its methods are where the chief does more; `setup` is that of `pretrain.prepare`."""

    checkpoint = None  # the `Checkpoint` of the chief

    def check_checkpoints(self):
        """Raises `ValueError` where the run has trained and lost its checkpoints."""

    def with_neighbours(self, config, train, test):
        """The configuration with a number of neighbours, which follows from the labels where it is not given."""
        return config

    def announce(self, setup):
        """Makes the kNN monitor, which may not fit the data, and says what the run will be."""
        print(f"{setup.devices}\nthis worker trains; the first one prints and writes", flush=True)

    def initial_weights(self, config):
        """The function that gives a fresh encoder the weights of --init_from, or `None`."""

    def resume(self, model, setup):
        """Restores the newest checkpoint or saves the first one, and claims the folder."""

    def measure_start(self, model):
        """Measures the accuracy before the first step, which training has to beat."""

    def build_callbacks(self, model, setup, first_epoch):
        """The callbacks of the run: a list."""
        return [callbacks.NotFiniteGuard()]

    def timed(self):
        """A context manager that adds the seconds of its block, stopped or not, to those recorded before."""
        return contextlib.nullcontext()

    def finish(self, model, setup):
        """Evaluates and exports what was trained, and returns the results: a dict."""
        return {}


class Chief(Worker):
    """The first of several workers, or the only one, with the `RunDirectory` that it has locked."""

    def __init__(self, run, check_in_place):
        self.run, self.check_in_place = run, check_in_place
        self.monitor = None

    def check_checkpoints(self):
        resume.check_checkpoints(self.run)

    def with_neighbours(self, config, train, test):
        if test is None or config.knn_k is not None:
            return config
        k = usual_k(train.labels())
        if k < USUAL_K:
            print(told_usual_k(k), flush=True)
        return dataclasses.replace(config, knn_k=k)

    def announce(self, setup):
        self.monitor = build_monitor(setup.plan.config, setup.train, setup.test)
        print(f"{setup.devices}\n{setup.plan.describe()}", flush=True)
        if setup.train.buffer:
            print(setup.train.buffer.describe(), flush=True)

    def initial_weights(self, config):
        if not config.init_from or callbacks.is_saved(self.run.checkpoints):
            return None
        return initial_weights(config.init_from, config.trust_saved_model)

    def resume(self, model, setup):
        plan, config, run = setup.plan, setup.plan.config, self.run
        self.checkpoint = checkpoint = resume.build_checkpoint(plan, run, setup.train, self.check_in_place)
        changed = resume.resume(model, checkpoint, setup.train, config, run)
        # First, since a process that is killed in between comes here again.
        resume.note_changes(changed, model, run)
        run.claim(config)
        resume.note_replicas(plan, run)
        resumed = checkpoint.saved
        if resumed is None:
            # Before anything is logged: a run that has no checkpoint later on has lost it.
            checkpoint.set_model(model)
            checkpoint.save(epoch=0, step_in_epoch=0)
        facts = {"train_examples": setup.train.num_examples, "train_licence": setup.train.licence}  # for the model card
        run.results.record(has_checkpoints=checkpoint.saved is not None, **facts)
        if resumed is None and config.init_from:
            print(f"begins with the weights of {config.init_from}", flush=True)
        if model.steps_done:
            epoch, step = divmod(model.steps_done, plan.steps_per_epoch)
            steps = f" and {step} of {plan.steps_per_epoch} steps" if step else ""
            print(f"resumed from {resumed} after {epoch} of {config.epochs} epochs{steps}", flush=True)

    def measure_start(self, model):
        if not self.monitor:
            return
        self.monitor.set_model(model)
        initial = self.run.results.read().get("knn_top1_initial")
        # Of a model that was trained before, as a converted one, it stays unknown.
        if initial is None and model.steps_done == 0:
            initial = round(self.monitor.evaluate(), 2)
            self.run.results.record({"step": 0}, knn_top1_initial=initial)
            print(f"kNN top-1 before training: {initial:.2f} %", flush=True)
        self.monitor.initial_top1 = initial

    def build_callbacks(self, model, setup, first_epoch):
        plan, train, augmentation = setup.plan, setup.train, setup.augmentation
        monitors = [self.monitor] if self.monitor else []
        monitors.append(build_representation_monitor(plan.config, train, augmentation))
        built = build_callbacks(plan, self.run, monitors, self.checkpoint, first_epoch)
        show_start(self.run, plan, train, augmentation, model.required)
        return built

    @contextlib.contextmanager
    def timed(self):
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            # Neither a disk that is full nor a damaged file may hide why training ended.
            with contextlib.suppress(OSError, UserError):
                self.run.results.record(seconds=lambda before: round((before or 0) + seconds, 1))

    def finish(self, model, setup):
        run, config, train, test = self.run, setup.plan.config, setup.train, setup.test
        self.check_in_place()
        resume.note_unsaved(model, self.checkpoint)
        if self.monitor:
            top1 = self.monitor.history[-1][1] if self.monitor.history else self.monitor.evaluate()
            run.results.record(knn_top1=round(top1, 2))
        export_backbone(model.encoder, run.export)
        for source in filter(None, (train, test)):
            if source.bad and source.bad.count:
                print(f"note: {source.bad.summary()}", flush=True)
        counts = {"bad_images": train.bad.count} if train.bad else {}
        if config.on_nan == "skip":
            counts["steps_skipped"] = model.steps_not_finite
        run.results.record(epochs=config.epochs, steps=model.steps_done, versions=versions(), **counts)
        with warn_if_not_written(str(run.export / "MODEL_CARD.md")):  # of the weights that were exported
            target = Subject(EvaluationConfig(workdir=str(run.path)), model.encoder, model.steps_done)
            target.note_checkpoint("export", *({"knn_top1"} & run.results.read().keys()))
            write_card(target)
        show_end(run, config, model.encoder, train, test)
        results = run.results.read()
        print(closing_lines(run, results), flush=True)
        return results
