"""The modes of evaluate.py: functions of a `Subject`, which print what they find and record it."""

from keras_moco.modes.frozen import knn, linear, logistic, measures
from keras_moco.modes.tuned import finetune, semi
from keras_moco.modes.use import embed, export, retrieve

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
