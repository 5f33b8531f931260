"""From the settings of an evaluation to metrics, pictures and a model card."""

from keras_moco import data
from keras_moco.config import EvaluationConfig
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.registry import find_evaluation
from keras_moco.evaluation.target import EvaluationTarget

__all__ = ["evaluate"]


@data.plain_read_errors()
def evaluate(mode: str, config: EvaluationConfig) -> dict:
    """Evaluates an encoder, as `evaluate.py` does.

    Args:
        mode: the name of an evaluation, a key of `keras_moco.evaluation.registry.EVALUATIONS`.
        config: `EvaluationConfig`.

    Returns:
        dict, what `results.json` then has.

    Raises:
        ValueError: if the mode is unknown or does not use a setting, or settings, model and images do not fit together.
        OSError: if results could not be written; before any work.
    """
    evaluation = find_evaluation(mode, config)
    if hasattr(evaluation, "check"):
        evaluation.check(config)
    target = EvaluationTarget(config)
    evaluation.run(target)
    target.output.finish()
    for source in target.opened:
        if source.bad and source.bad.count:
            print(f"note: {source.bad.summary()}", flush=True)
    write_card(target)
    print(f"results    {target.output.results.path}\nmodel card {target.output.card}")
    return target.output.results.read()
