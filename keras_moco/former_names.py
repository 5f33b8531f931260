"""The modules of version 0.1 that have moved: `from keras_moco.models import MoCo` and the like go on working.

Whoever still writes them gets a `FutureWarning` that names the new place.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings

# Where the public names of a module are now. That of a command says how it is started now.
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
COMMANDS = {
    "augment.preview": "preview",
    "convert.__main__": "convert",
    "data.import_idx": "import_idx",
}


class FormerNames(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds the modules that have moved, after everything else has been tried."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == "keras_moco" and name in MOVED | COMMANDS:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def exec_module(self, module):
        homes = [f"keras_moco.{home}" for home in MOVED[module.__name__.partition(".")[2]]]
        warnings.warn(f"{module.__name__} is now {' and '.join(homes)}.", FutureWarning, stacklevel=2)
        for home in map(importlib.import_module, homes):
            module.__dict__.update({name: getattr(home, name) for name in home.__all__})

    def get_source(self, fullname):
        """Of a command, which Python starts by `-m`."""
        command = COMMANDS[fullname.partition(".")[2]]
        return f"import sys\nfrom keras_moco.commands.{command} import main\nsys.exit(main())\n"


sys.meta_path.append(FormerNames())
