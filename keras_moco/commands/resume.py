"""Resumes a run from its checkpoints, and checks what must not have changed since."""

import dataclasses
import warnings

from keras_moco import callbacks
from keras_moco.config import Config
from keras_moco.config.training import FILES
from keras_moco.data.identity import differences
from keras_moco.data.value_range import AUTO, FULL
from keras_moco.errors import UserError
from keras_moco.runs.versions import versions


def build_checkpoint(plan, run, train, check_in_place):
    """The callback that saves the model, and beside it what a resumed run compares and needs.

    It saves nothing where `check_in_place` raises an error, since the folder of the run was moved or deleted.
    """
    config = plan.config

    def extra():
        check_in_place()
        bad = train.bad.met if train.bad else {}
        facts = {"data": train.name, "train_examples": train.num_examples, "bad_images": bad}
        if train.digests:
            facts["data_digests"] = train.digests
        return {"config": dataclasses.asdict(config), **facts}

    return callbacks.Checkpoint(
        run.checkpoints,
        every_epochs=config.checkpoint_epochs,
        every_minutes=config.checkpoint_minutes,
        max_share=config.checkpoint_share,
        keep=config.keep_checkpoints,
        keep_every_epochs=config.keep_every_epochs,
        extra=extra,
    )


def as_begun(config, run):
    """The configuration with what was measured when a run began: the range of values, mean and std; if not given now.

    A run of a version without a range of values took black to white of each file's own type.
    """
    names = [name for name in ("value_range", "image_mean", "image_std") if getattr(config, name) == AUTO]
    if config.dataset.partition(":")[0] not in FILES:
        names = [name for name in names if name != "value_range"]
    if not names or not run.flagfile.exists():
        return config
    begun = run.config()
    if begun.value_range == AUTO:
        begun = dataclasses.replace(begun, value_range=FULL)
    return dataclasses.replace(config, **{name: getattr(begun, name) for name in names})


def check_checkpoints(run):
    """Refuses a run that has trained and has lost its checkpoints, which would start from scratch.

    Raises:
        ValueError: if there is no checkpoint, although log or results show that there was one.
        OSError: if checkpoints cannot be read.
    """
    if callbacks.is_saved(run.checkpoints):
        return
    results = run.results.read()
    epochs, saved = run.logged_epochs(), "steps" in results or results.get("has_checkpoints")
    if epochs or saved:
        found = f"{run.log_csv} has {epochs} epoch(s)" if epochs else f"{run.results_json} mentions some"
        raise UserError(
            "A run that has trained must have its checkpoints, or it would overwrite its results from scratch. "
            f"Received: {run.checkpoints} without any, while {found}. Restore them; or, to train from scratch, "
            f"choose another --workdir, or delete {run.path}."
        )


def resume(model, checkpoint, train, config, run):
    """Restores the newest whole checkpoint, if there is one, and says what is different now.

    Returns:
        dict, the allowed changes from the configuration of the checkpoint: names to `"before -> now"`.

    Raises:
        ValueError: if all checkpoints are damaged, or the configuration or the number of images has changed; also if
            the images have changed and the model keeps a vector for each of them.
    """
    with warnings.catch_warnings(record=True) as damages:
        warnings.simplefilter("always", UserWarning)
        state = checkpoint.restore(model)
    for warning in damages:
        print(f"note: {warning.message}", flush=True)
    if state is None:
        return {}
    changed = changes_since(state, config, run)
    before = state.extra.get("train_examples", train.num_examples)  # absent in a converted run
    if before != train.num_examples:
        raise UserError(
            "The training images must be those that the run began with. "
            f"Received: {train.num_examples} images in {train.name}, {before} before. Restore them, or start a new "
            f"run from these weights: another --workdir and --init_from={checkpoint.directory.parent}."
        )
    same = recognise(model, state, checkpoint, train)
    if train.bad and same:
        train.bad.remember(state.extra.get("bad_images", {}))
    if state.versions != versions():
        then = ", ".join(f"{name} {number}" for name, number in state.versions.items())
        print(f"note: the checkpoint was saved with {then}; results may differ in the last bits", flush=True)
    return changed


def changes_since(state, config, run):
    """The changes from the configuration that a checkpoint was saved with, whatever `flags.cfg` says now.

    Returns:
        dict of names to `"before -> now"`, without those recorded at this step already, by a process that was killed.

    Raises:
        ValueError: if a change is not allowed.
    """
    fields = {field.name for field in dataclasses.fields(Config)}
    saved = {name: value for name, value in state.extra.get("config", {}).items() if name in fields}
    if not saved:
        return {}  # saved by another program
    # The folder may have been moved since; and what --allow_config_change allowed then is not allowed for good.
    changed = config.differences(Config(**{**saved, "allow_config_change": ()}))
    noted = [each for each in run.results.read().get("config_changes", []) if each.get("step") == state.step]
    changed = {name: change for name, change in changed.items() if not any(each.get(name) == change for each in noted)}
    run.check_changes(config, changed)
    return changed


def note_unsaved(model, checkpoint):
    """Says so where the last steps could not be saved."""
    saved = checkpoint.saved_step or 0
    if saved != model.steps_done:
        print(
            f"warning: the last {model.steps_done - saved} steps are in no checkpoint. Free disk space, and run the "
            "same command again, which repeats them.",
            flush=True,
        )


def recognise(model, state, checkpoint, train):
    """Whether the training images are those of the checkpoint, in the same order; if not, a line says so.

    Raises:
        ValueError: if not, and the model keeps a vector for each of them.
    """
    before = state.extra.get("data_digests")
    if not before or not train.digests:  # saved by an older version, which noted the name alone
        return state.extra.get("data", train.name) == train.name
    changed = differences(before, train.digests)
    if not changed:
        return True  # though they may have moved
    listed = " and ".join(filter(None, [", ".join(changed[:-1]), changed[-1]]))
    if model.remembers_images:
        raise UserError(
            "The training images must be those that the run began with, as this model keeps a vector for each by its "
            f"number. Received: {train.name}, of which the {listed} changed since. Restore them, or start a new run "
            f"from these weights: another --workdir and --init_from={checkpoint.directory.parent}."
        )
    print(
        f"note: the {listed} of the training images changed since; training continues with them as they are now, and "
        "all of them are checked again for unreadable ones",
        flush=True,
    )
    return False


def note_changes(changed, model, run):
    """Records the changes that --allow_config_change has allowed, and from which step on."""
    if changed:
        change = {"step": model.steps_done, **changed}
        run.results.record(config_changes=lambda before: [*(before or []), change])
        listed = ", ".join(f"{name}: {change}" for name, change in changed.items())
        print(f"note: the configuration changes from step {model.steps_done} on: {listed}", flush=True)


def note_replicas(plan, run):
    """Records the number of replicas; where it was another one before, a line says what changes."""
    before = run.results.read().get("replicas", plan.replicas)
    if before != plan.replicas:
        print(
            f"note: this run had {before} replica(s) before, now {plan.replicas}; the groups of its BatchNorm are now: "
            f"{plan.batch_norm.describe()}",
            flush=True,
        )
    run.results.record(replicas=plan.replicas)
