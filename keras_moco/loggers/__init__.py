"""Where the metrics of a run are logged: one file per service, and the registry `LOGGERS`.

Only `commands` imports this room. A service and its package are imported when `log_to` names it, so that nobody needs
what is not used.
"""

import contextlib
import pkgutil

from keras_moco.callbacks.optional_output import OptionalOutput, warn_if_not_written
from keras_moco.errors import MissingPackageError, Stopped

ALWAYS = "csv"  # what a resumed run, the curves and the pages about them need

# What `log_to` may name: the class of a `Logger`.
LOGGERS = {
    "csv": "keras_moco.loggers.files:LogFile",
    "tensorboard": "keras_moco.loggers.files:TensorBoard",
    "wandb": "keras_moco.loggers.wandb:WeightsAndBiases",
    "mlflow": "keras_moco.loggers.mlflow:MLflow",
}


def make_loggers(names, run, plan):
    """The loggers of a run, a list of `Logger`; nothing is opened or written yet.

    Args:
        names: names of `LOGGERS`, `log_to` of the configuration. `csv` is added if it is missing.
        run: `RunDirectory` of the run.
        plan: `Plan` of the run.

    Raises:
        ValueError: `MissingPackageError`, if the package of a service is not installed.
    """
    loggers = []
    for name in (each for each in LOGGERS if each == ALWAYS or each in names):
        try:
            loggers.append(pkgutil.resolve_name(LOGGERS[name])(run, plan))
        except ImportError as error:
            raise MissingPackageError(
                f"The package of a service must be installed to log to it. Received: log_to={','.join(names)}, and "
                f"{error}. Run pip install 'keras_moco[{name}]', or omit {name} from --log_to."
            ) from error
    return loggers


def optional_callbacks(loggers, monitors, log, first_epoch):
    """The callbacks of loggers for `fit`, a list; where one fails, a line says so and training continues.

    Args:
        loggers: list of `Logger`.
        monitors: list of callbacks that have measured distributions.
        log: dict of epoch (from 0) to a dict of numbers, of the epochs before.
        first_epoch: int, from 0, the first epoch that will be trained.
    """
    return [
        OptionalOutput(logger.callback(monitors, log, first_epoch), logger.what, errors=logger.errors)
        for logger in loggers
    ]


def log_results(loggers, log):
    """Logs what a run has at its end: the epochs that could not be logged before, pictures and model card."""
    for logger in loggers:
        with warn_if_not_written(logger.what, errors=logger.errors):
            logger.finish(log)


@contextlib.contextmanager
def closed_after(loggers):
    """Closes loggers after a block, and says how it ended: finished, stopped or failed."""
    status = "failed"
    try:
        yield
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    finally:
        for logger in loggers:
            with contextlib.suppress(*logger.errors):  # a service that is out of reach has been reported
                logger.close(status)
