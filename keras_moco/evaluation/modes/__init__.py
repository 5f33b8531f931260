"""The modes of evaluate.py: functions of a `Subject`, which print what they find and record it."""

from keras_moco.config.settings import to_text
from keras_moco.errors import UserError
from keras_moco.evaluation.modes.frozen import knn, linear, logistic, measures
from keras_moco.evaluation.modes.tuned import finetune, semi
from keras_moco.evaluation.modes.use import embed, export, retrieve

MODES = {
    "knn": knn,
    "linear": linear,
    "logistic": logistic,
    "semi": semi,
    "finetune": finetune,
    "retrieve": retrieve,
    "embed": embed,
    "measures": measures,
    "export": export,
}


def get_mode(name, config):
    """The `Mode` of that name.

    Raises:
        ValueError: for an unknown name, or settings that only other modes have a use for.
    """
    if name not in MODES:
        raise UserError(
            f"evaluate.py must be given one mode of {', '.join(MODES)}. Received: {name or 'none'}. "
            "Write for example: python evaluate.py knn --workdir=runs/quickstart."
        )
    for setting in config.changed():
        owners = [owner for owner, mode in MODES.items() if setting in mode.settings]
        if owners and name not in owners:
            raise UserError(
                f"`{setting}` must not be given with mode {name}, which has no use for it. "
                f"Received: {setting}={to_text(getattr(config, setting))}. "
                f"Leave out --{setting}, or choose the mode {' or '.join(owners)}."
            )
    return MODES[name]
