"""What a run takes up from its checkpoints, and what must not have changed since."""

import dataclasses
import warnings

from keras_moco import callbacks
from keras_moco.config import Config
from keras_moco.data.identity import differences
from keras_moco.errors import UserError
from keras_moco.runs.versions import versions


def build_checkpoint(plan, run, train, check_in_place):
    """The callback that saves everything, and what of it is not in the model.

    Args:
        plan: `Plan`.
        run: `RunDirectory`.
        train: `Source`.
        check_in_place: function that raises `ValueError` where the folder of the run is no longer there.
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


def check_checkpoints(run):
    """Refuses a run that has trained and has lost its checkpoints, which would be taken for a new one.

    Raises:
        ValueError: if log or results speak of a checkpoint or of a training, and there is none.
        OSError: if checkpoints cannot be read.
    """
    if callbacks.is_saved(run.checkpoints):
        return
    results = run.results.read()
    epochs, saved = run.logged_epochs(), "steps" in results or results.get("has_checkpoints")
    if epochs or saved:
        found = f"{run.log_csv} has {epochs} epoch(s)" if epochs else f"{run.results_json} mentions some"
        raise UserError(
            "A run that has trained must have its checkpoints, or it would begin anew over what it has. "
            f"Received: {run.checkpoints} without any, while {found}. Put them back; or, to begin anew on purpose, "
            f"choose another --workdir, or delete {run.path}."
        )


def resume(model, checkpoint, train, config, run):
    """Brings back the newest whole checkpoint, if there is one, and says what is different now.

    Args:
        model: compiled model whose optimizer is built.
        checkpoint: `Checkpoint`.
        train: `Source`.
        config: `Config`, which names the changes that it allows.
        run: `RunDirectory`.

    Returns:
        dict, what is allowed to differ from the configuration of the checkpoint: names to `"before -> now"`.

    Raises:
        ValueError: if there are only damaged ones, the configuration is another one than before, or the number of
            images; also if they are other images and the model keeps something for each of them.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        state = checkpoint.restore(model)
    for warning in told:
        print(f"note: {warning.message}", flush=True)
    if state is None:
        return {}
    changed = changes_since(state, config, run)
    before = state.extra.get("train_examples", train.num_examples)  # a converted run does not tell
    if before != train.num_examples:
        raise UserError(
            "The training images must be those that the run began with. "
            f"Received: {train.num_examples} images in {train.name}, {before} before. Put them back, or begin a new "
            f"run from these weights: another --workdir and --init_from={checkpoint.directory.parent}."
        )
    same = recognise(model, state, checkpoint, train)
    if train.bad and same:
        train.bad.remember(state.extra.get("bad_images", {}))
    if state.versions != versions():
        then = ", ".join(f"{name} {number}" for name, number in state.versions.items())
        print(f"note: the checkpoint was saved with {then}; the last bits may differ from here on", flush=True)
    return changed


def changes_since(state, config, run):
    """What differs from the configuration that a checkpoint was saved with, whatever `flags.cfg` says now.

    Returns:
        dict of names to `"before -> now"`, without what was noted at this step already, by a process that was killed.

    Raises:
        ValueError: if something differs that is not allowed to.
    """
    fields = {field.name for field in dataclasses.fields(Config)}
    saved = {name: value for name, value in state.extra.get("config", {}).items() if name in fields}
    if not saved:
        return {}  # saved by another program
    # The folder may have been moved since, and what is not kept was meant for that start alone.
    changed = config.differences(Config(**{**saved, "allow_config_change": ()}))
    noted = [each for each in run.results.read().get("config_changes", []) if each.get("step") == state.step]
    changed = {name: change for name, change in changed.items() if not any(each.get(name) == change for each in noted)}
    run.check_changes(config, changed)
    return changed


def note_unsaved(model, checkpoint):
    """Says so where the last steps of a training could not be saved."""
    saved = checkpoint.saved_step or 0
    if saved != model.steps_done:
        print(
            f"warning: the last {model.steps_done - saved} steps are in no checkpoint. Make room, and run the same "
            "command again: it trains them again.",
            flush=True,
        )


def recognise(model, state, checkpoint, train):
    """Whether the training images are those of the checkpoint, number by number; if they are not, a line says so.

    Raises:
        ValueError: if they are not, and the model keeps something for each of them.
    """
    before = state.extra.get("data_digests")
    if not before or not train.digests:  # saved by an older version; then the name has to do
        return state.extra.get("data", train.name) == train.name
    changed = differences(before, train.digests)
    if not changed:
        return True  # though they may have moved
    listed = " and ".join(filter(None, [", ".join(changed[:-1]), changed[-1]]))
    if model.remembers_images:
        raise UserError(
            "The training images must be those that the run began with, as this model keeps a vector for each by its "
            f"number. Received: {train.name}, of which the {listed} changed since. Put them back, or begin a new run "
            f"from these weights: another --workdir and --init_from={checkpoint.directory.parent}."
        )
    print(
        f"note: the {listed} of the training images changed since; training continues with them as they are now, and "
        "which of them are unreadable is found out anew",
        flush=True,
    )
    return False


def note_changes(changed, model, run):
    """Records what --allow_config_change has let through, and from which step on."""
    if changed:
        change = {"step": model.steps_done, **changed}
        run.results.record(config_changes=lambda before: [*(before or []), change])
        listed = ", ".join(f"{name}: {change}" for name, change in changed.items())
        print(f"note: from step {model.steps_done} on the configuration is another one: {listed}", flush=True)


def note_replicas(plan, run):
    """Records the number of replicas, and says what it means that it was another one before."""
    before = run.results.read().get("replicas", plan.replicas)
    if before != plan.replicas:
        print(
            f"note: this run was on {before} replica(s) before, now on {plan.replicas}; the groups of its BatchNorm "
            f"are now: {plan.batch_norm.describe()}",
            flush=True,
        )
    run.results.record(replicas=plan.replicas)
