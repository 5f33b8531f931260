"""The commands of `keras-moco` by name. The file of each is imported once its arguments are known to be right."""

from keras_moco.command_line import parsers
from keras_moco.command_line.arguments import ArgumentsCommand
from keras_moco.command_line.settings_command import SettingsCommand
from keras_moco.config import Config, EvaluationConfig
from keras_moco.config.evaluation import MODES, check_mode

_EVALUATE = "keras_moco.commands.evaluate:evaluate"

# What a person wants to do, as `keras-moco --help` lists it.
GROUPS: dict[str, list[SettingsCommand | ArgumentsCommand]] = {
    "training": [
        SettingsCommand(
            "pretrain", "pre-trains an encoder, or resumes", kind=Config, work="keras_moco.commands.pretrain:pretrain"
        ),
        ArgumentsCommand(
            "recipes",
            "lists the recipes: what each is, needs and has reached",
            parser=parsers.recipes_parser,
            work="keras_moco.commands.recipes:work",
            needs_package=False,
        ),
    ],
    "the encoder": [
        SettingsCommand(
            "evaluate",
            "evaluates an encoder, or finds similar images",
            kind=EvaluationConfig,
            work="keras_moco.commands.evaluate:evaluate",
            modes=MODES,
            check_mode=check_mode,
        ),
        SettingsCommand(
            "export",
            "exports the backbone as SavedModel and .keras file, again, or for the Hugging Face Hub",
            kind=EvaluationConfig,
            work="keras_moco.commands.evaluate:evaluate",
            mode="export",
            groups=("model", "images", "export", "all evaluations"),
        ),
        ArgumentsCommand(
            "convert",
            "converts weights from and to PyTorch",
            parser=parsers.convert_parser,
            work="keras_moco.commands.convert:work",
        ),
    ],
    "images": [
        ArgumentsCommand(
            "check",
            "looks at images before training, and suggests settings",
            parser=parsers.check_parser,
            work="keras_moco.commands.check:work",
            check=parsers.check_check,
        ),
        ArgumentsCommand(
            "preview",
            "draws random views of images",
            parser=parsers.preview_parser,
            work="keras_moco.commands.preview:work",
            check=parsers.check_preview,
        ),
        ArgumentsCommand(
            "import-idx",
            "imports MNIST-like files as a data set of TensorFlow Datasets",
            parser=parsers.import_idx_parser,
            work="keras_moco.commands.import_idx:work",
        ),
    ],
    "this command": [
        ArgumentsCommand(
            "completion",
            "lets the Tab key complete commands, flags, values and recipes",
            parser=parsers.completion_parser,
            work="keras_moco.commands.completion:work",
            needs_package=False,
        ),
    ],
}
COMMANDS = {command.name: command for commands in GROUPS.values() for command in commands}
