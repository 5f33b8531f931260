"""What a result was made with."""

from importlib.metadata import PackageNotFoundError, packages_distributions, version

import keras_moco


def versions():
    """A dict of package names and versions."""
    return {"keras_moco": keras_moco.__version__, **{name: version_of(name) for name in ("keras", "tensorflow")}}


def versions_line():
    """The same as one line of text."""
    return ", ".join(f"{name} {number}" for name, number in versions().items())


def version_of(package):
    """The version of a package, also where it comes from a distribution of another name, such as tensorflow-tpu."""
    try:
        return version(package)
    except PackageNotFoundError:
        return version(packages_distributions()[package][0])
