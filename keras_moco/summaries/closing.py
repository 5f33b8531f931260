"""The last lines of a run."""

import shlex

from keras_moco.export.backbone import KERAS_FILE


def closing_lines(run, results):
    """Where everything is, and what can be done next.

    Args:
        run: `RunDirectory`.
        results: dict, as in `results.json`.

    Returns:
        str of several lines.
    """
    labelled = "knn_top1" in results
    knn = ""
    if labelled:
        # Not known where the run began elsewhere, as a converted one, or its results have been deleted.
        before = f"{results['knn_top1_initial']:.2f} % before, " if "knn_top1_initial" in results else ""
        knn = f"kNN top-1: {before}{results['knn_top1']:.2f} % after training\n"
    pictures = [path.name for path in (run.curves, run.views, run.neighbours, run.embedding) if path.exists()]
    return (
        f"{knn}results    {run.results_json}\n"
        f"log        {run.log_csv}\n"
        f"pictures   {', '.join(pictures) or 'none'} in {run.path}\n"
        f"checkpoint {run.checkpoints}\n"
        f"backbone   {run.export}\n"
        f"watch:     tensorboard --logdir {shlex.quote(str(run.tensorboard))}\n"
        f"evaluate:  python evaluate.py {'knn' if labelled else 'retrieve --split=train'} "
        f"--workdir={shlex.quote(str(run.path))}\n"
        f'use:       keras.models.load_model("{run.export / KERAS_FILE}")'
    )
