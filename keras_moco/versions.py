"""What a result was made with."""

from importlib.metadata import version

import keras_moco


def versions():
    """A dict of package names and versions."""
    return {"keras_moco": keras_moco.__version__, **{name: version(name) for name in ("keras", "tensorflow")}}


def versions_line():
    """The same as one line of text."""
    return ", ".join(f"{name} {number}" for name, number in versions().items())
