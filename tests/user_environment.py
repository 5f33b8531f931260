"""What a user's shell has, for processes that tests start: the environment without what belongs to the test run."""

import os
import re

# To a `make` started by a test, these of an outer `make test` would say that it was called by make: it would print
# "Entering directory" among its commands. The others change what programs print, or how TensorFlow starts;
# TF_ENABLE_ONEDNN_OPTS stays, since it stands for a processor.
OF_THE_TEST_RUN = re.compile(
    r"(GNU)?MAKE(FLAGS|LEVEL|OVERRIDES|FILES|_TERM\w+)|MFLAGS|PYTEST_\w+|CI|COLUMNS|LINES|TF_(?!ENABLE_ONEDNN_OPTS)\w+"
)

# What a program begins with that needs no TensorFlow, which `keras_moco/__init__.py` loads: as train.py does.
WITHOUT_TENSORFLOW = """
import importlib.util, sys
sys.modules["keras_moco"] = importlib.util.module_from_spec(importlib.util.find_spec("keras_moco"))
"""


def user_environment(**settings):
    """The variables of a user, with others set: a dict for `subprocess`."""
    kept = {name: value for name, value in os.environ.items() if not OF_THE_TEST_RUN.fullmatch(name)}
    return {**kept, **settings}
