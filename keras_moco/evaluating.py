"""From the settings of an evaluation to figures, pictures and a model card."""

from keras_moco import data
from keras_moco.errors import UserError
from keras_moco.model_card import write_card
from keras_moco.modes import MODES
from keras_moco.subject import Subject

__all__ = ["evaluate"]


@data.plain_read_errors()
def evaluate(mode, config):
    """Evaluates an encoder; what `evaluate.py` does.

    Args:
        mode: a key of `MODES`.
        config: `EvaluationConfig`.

    Raises:
        ValueError: if there is no such mode, or settings, model and images do not fit each other.
    """
    if mode not in MODES:
        raise UserError(
            f"evaluate.py must be given one mode of {', '.join(MODES)}. Received: {mode or 'none'}. "
            "Write for example: python evaluate.py knn --workdir=runs/quickstart."
        )
    subject = Subject(config)
    MODES[mode](subject)
    subject.record(**({"data_licence": config.data_licence} if config.data_licence else {}))
    write_card(subject)
    print(f"results    {subject.results.path}\nmodel card {subject.card}")
