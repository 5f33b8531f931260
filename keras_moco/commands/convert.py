"""Converts weights between PyTorch, Detectron2 and this package: keras-moco convert --help"""

import dataclasses
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

from keras_moco import distribution
from keras_moco.command_line import how_to_call
from keras_moco.commands.registry import COMMANDS
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.convert import encoder_from_pytorch, load_pytorch, to_detectron2, to_pytorch
from keras_moco.convert.files import read
from keras_moco.convert.summary import summary
from keras_moco.errors import UserError
from keras_moco.export import export_backbone
from keras_moco.methods import MoCo
from keras_moco.runs.build import build_model, plan_of
from keras_moco.runs.checkpoints import save
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_model
from keras_moco.storage.locks import locked
from keras_moco.storage.paths import user_path


def show(args):
    print(summary(args.file))


def backbone(args):
    folder = user_path(args.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not args.overwrite:
        raise UserError(
            "The folder to write must be new or empty. "
            f"Received: {folder}. Choose another one, or give --overwrite to replace the export in it."
        )
    encoder = encoder_from_pytorch(args.file, preset=args.preset, stem=args.stem, allow_partial=args.allow_partial)
    print(
        f"Wrote {export_backbone(encoder, folder)}: {encoder.backbone.name}, {encoder.feature_dim} features of images "
        f"in 0..255, which it scales by mean {_listed(encoder.mean)} and standard deviation {_listed(encoder.std)}."
    )


def run(args):
    file = read(args.file)
    config = read_flagfile(args.flagfile)
    config = dataclasses.replace(config, workdir=args.workdir, data_dir=args.data_dir or config.data_dir)
    folder = RunDirectory(args.workdir)
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise UserError(
            f"`workdir` must be new or empty, so that no run is lost. Received: {folder.path}. Choose another one."
        )
    plan = plan_of(config, config.replicas or 1)
    model = build_model(plan, distribution.make_strategy("one"))
    if not isinstance(model, MoCo):
        raise UserError(
            f"The flagfile must set --method=moco. Received: {args.flagfile} with {config.method}. Choose another one."
        )
    velocities = bool(file.buffers) and config.optimizer == "sgd"
    # The schedule counts steps of this run, whose batch may differ from that of the file.
    steps = file.epoch * plan.steps_per_epoch if file.epoch else None
    load_pytorch(model, args.file, steps, with_optimizer=velocities, allow_partial=args.allow_partial)
    model.optimizer.iterations.assign(model.step)
    _write_run(folder, plan.config, model, epochs=file.epoch, steps=model.steps_done, converted_from=str(file.path))
    finished = f"of which {file.epoch} are finished ({model.steps_done:,} steps)"
    print(f"Wrote {folder.path}: a run of {config.epochs} epochs, {finished}.")
    if not velocities:
        print("note: no SGD state was converted; training would start with velocities of 0.")
    print(f"evaluate:  {how_to_call('evaluate')} linear --workdir={folder.path}")
    print(f"resume:    {how_to_call('pretrain')} --flagfile={folder.flagfile}")


def _write_run(folder, config, model, **results):
    """Writes the folder of a run in one piece: training would resume an incomplete one from random weights."""
    parent, prefix = folder.path.parent, f".convert-{folder.path.name}-"
    parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.path) as held:
        for each in parent.iterdir() if held else ():
            if re.fullmatch(re.escape(prefix) + r"\w{8}", each.name):  # left by a process that was killed
                shutil.rmtree(each)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as temporary:
            new = RunDirectory(Path(temporary) / "run")
            new.claim(config)
            save(model, new.checkpoints, epoch=results["epochs"] or 0)
            export_backbone(model.encoder, new.export)
            new.results.record(**results)
            new.path.replace(folder.path)


def pytorch(args):
    plan, model = load_model(args.workdir, args.data_dir)
    epoch = model.steps_done // plan.steps_per_epoch
    print(f"Wrote {to_pytorch(model, args.file, epoch, args.overwrite)}: {model.steps_done:,} steps, epoch {epoch}.")


def detectron2(args):
    _, model = load_model(args.workdir, args.data_dir)
    print(f"Wrote {to_detectron2(model, args.file, args.overwrite)}.")


def _listed(numbers):
    return ", ".join(f"{number:g}" for number in numbers)


FUNCTIONS = {
    "show": show,
    "backbone": backbone,
    "run": run,
    "to_pytorch": pytorch,
    "to_detectron2": detectron2,
}


def work(args):
    """Runs one of the conversions."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        FUNCTIONS[args.command](args)


def main(argv=None):
    """Runs the command; returns its exit status."""
    return COMMANDS["convert"].main(argv)
