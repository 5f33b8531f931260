"""Modules that have moved: `from keras_moco.models import MoCo` and the like still work.

The first line of a program that uses a former name gets a `FutureWarning` with the new one.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings

# The modules that now hold the names of a former one.
MOVED = {
    "backbones": ["networks"],
    "batch_norm": ["networks.shuffle_bn"],
    "contrast": ["methods.losses"],
    "evaluating": ["commands.evaluate"],
    "evaluation_config": ["config"],
    "loading": ["runs.load"],
    "models": ["methods", "networks"],
    "momentum": ["methods", "networks"],
    "plan": ["runs.plan"],
    "presets": ["methods.presets"],
    "schedules": ["optimizers.schedules"],
    "training": ["commands.pretrain"],
}
# Former modules that `python -m` also ran.
COMMANDS = {
    "augment.preview": ["commands.preview"],
    "convert.__main__": ["commands.convert"],
    "data.import_idx": ["commands.import_idx"],
}


class FormerNames(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds the modules that have moved, after every other finder has failed."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == "keras_moco" and name in MOVED | COMMANDS:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def exec_module(self, module):
        homes = self._homes(module.__name__)
        modules = [importlib.import_module(home) for home in homes]
        names = [f"{home.__name__} ({', '.join(getattr(home, '__all__', ['main']))})" for home in modules]
        _warn(f"{module.__name__} has moved to {' and '.join(names)}. Import from there.")
        module.__all__ = [name for home in modules for name in getattr(home, "__all__", ["main"])]
        for home in modules:
            module.__dict__.update({name: value for name, value in vars(home).items() if not name.startswith("_")})

    def get_source(self, fullname):
        """The program that `python -m` runs."""
        return f"import sys\nfrom {self._homes(fullname)[0]} import main\nsys.exit(main())\n"

    def _homes(self, fullname):
        return [f"keras_moco.{home}" for home in (MOVED | COMMANDS)[fullname.partition(".")[2]]]


def _warn(message):
    """Warns at the line that imports a module, outside of this package and of `importlib`."""
    frame = sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in ("keras_moco", "importlib"):
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})  # which keeps a line from warning twice
    warnings.warn_explicit(message, FutureWarning, frame.f_code.co_filename, frame.f_lineno, registry=registry)


sys.meta_path.append(FormerNames())
