"""The folder of a run: where everything lies, and whose it is."""

from keras_moco.config import changeable, read_flagfile
from keras_moco.durable import write_text
from keras_moco.errors import UserError
from keras_moco.paths import user_path
from keras_moco.results import Results


class RunDirectory:
    """Names what a run writes, and keeps two different runs from writing into one folder.

    Args:
        path: path of the folder; nothing is created before `claim`.

    Example:

    >>> RunDirectory("runs/quickstart").results_json.name
    'results.json'
    """

    def __init__(self, path):
        self.path = user_path(path)
        self.flagfile = self.path / "flags.cfg"
        self.log_csv = self.path / "log.csv"
        self.curves = self.path / "curves.png"
        self.views = self.path / "views.png"
        self.neighbours = self.path / "neighbours.png"
        self.embedding = self.path / "embedding.png"
        self.results_json = self.path / "results.json"
        self.tensorboard = self.path / "tensorboard"
        self.events = self.tensorboard / "train"  # what TensorBoard calls a run
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"

    def check(self, config):
        """Raises `ValueError` unless the folder is new, empty, or holds a run of this configuration."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"`workdir` must be a folder. Received: {self.path}, a file. Choose another --workdir.")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not self.flagfile.exists():
            raise UserError(
                "`workdir` must be new, empty, or the folder of a run. "
                f"Received: {self.path}, which holds other things. Choose another --workdir."
            )
        changed = config.differences(self.config())
        refused = {name: change for name, change in changed.items() if name not in config.allow_config_change}
        if refused:
            allowable = [name for name in refused if name in changeable()]
            allow = f", or --allow_config_change={','.join(allowable)}" if len(allowable) == len(refused) else ""
            raise UserError(
                "`workdir` holds a run of another configuration, which would be mixed up with this one. "
                f"Received: {self.path} with {_listed(refused)}. Choose another --workdir, or the old values{allow}."
            )

    def claim(self, config):
        """Creates the folder, or opens it again, and notes down the configuration as a flagfile.

        Returns:
            dict, what is allowed to differ from the configuration before: names to `"before -> now"`.
        """
        self.check(config)
        changed = config.differences(self.config()) if self.flagfile.exists() else {}
        self.path.mkdir(parents=True, exist_ok=True)
        header = f"# Go on with this run:  python train.py --flagfile={self.flagfile}\n"
        write_text(self.flagfile, header + config.to_flagfile())
        return changed

    def config(self):
        """The `Config` of the run that lies here.

        Raises:
            ValueError: if there is none.
        """
        if not self.flagfile.exists():
            raise UserError(
                f"`workdir` must be the folder of a run. Received: {self.path}, without {self.flagfile.name}. "
                "Give the --workdir of a run of train.py."
            )
        return read_flagfile(self.flagfile)

    def results(self):
        """What has been recorded so far, as `Results.read`."""
        return Results(self.results_json).read()

    def record(self, **figures):
        """Adds figures to `results.json`, as `Results.record`."""
        return Results(self.results_json).record(**figures)


def _listed(changes):
    return ", ".join(f"{name}: {change}" for name, change in changes.items())
