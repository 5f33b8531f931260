"""From the settings of an evaluation to figures, pictures and a model card."""

from keras_moco import data
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.modes import get_mode
from keras_moco.evaluation.target import Subject

__all__ = ["evaluate"]


@data.plain_read_errors()
def evaluate(mode, config):
    """Evaluates an encoder; what `evaluate.py` does.

    Args:
        mode: a key of `keras_moco.evaluation.modes.MODES`.
        config: `EvaluationConfig`.

    Raises:
        ValueError: if there is no such mode, it has no use for a setting, or settings, model and images do not fit each
            other.
        OSError: if what is found out could not be written; before any work.
    """
    chosen = get_mode(mode, config)
    subject = Subject(config)
    chosen.run(subject)
    subject.finish()
    write_card(subject)
    print(f"results    {subject.results.path}\nmodel card {subject.card}")
