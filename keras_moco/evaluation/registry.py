"""The evaluations by name. Each is a module with a function `run` of an `EvaluationTarget`, which prints and records
its metrics, and `SETTINGS`, the fields of `EvaluationConfig` that it uses and not every evaluation does. It may have
`check`, a function of the `EvaluationConfig`, which refuses settings before the encoder is loaded.
"""

from keras_moco.config.evaluation import check_mode
from keras_moco.config.settings import to_text
from keras_moco.errors import UserError
from keras_moco.evaluation import embed, export, finetune, knn, linear, logistic, measures, retrieve, semi

EVALUATIONS = {
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


def find_evaluation(name, config):
    """The evaluation of that name, a module.

    Raises:
        ValueError: for an unknown name, or a setting that only other evaluations use.
    """
    check_mode(name)
    for setting in config.changed():
        users = [user for user, evaluation in EVALUATIONS.items() if setting in evaluation.SETTINGS]
        if users and name not in users:
            raise UserError(
                f"`{setting}` must not be given with mode {name}, which does not use it. "
                f"Received: {setting}={to_text(getattr(config, setting))}. "
                f"Omit --{setting}, or choose the mode {' or '.join(users)}."
            )
    return EVALUATIONS[name]
