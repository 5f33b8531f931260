"""Commands whose arguments `argparse` reads."""

from keras_moco.command_line.exit_status import status_of
from keras_moco.command_line.standard_streams import plain_output
from keras_moco.errors import UserError


def run_command(parser, work, argv=None):
    """Parses the arguments of a command and does its work.

    Args:
        parser: `argparse.ArgumentParser`, whose `prog` ends with the name of the command.
        work: function of the parsed arguments, which prints its results.
        argv: list of str. Defaults to `None`: those of the process.

    Returns:
        int, the exit status.
    """
    with plain_output():
        args = parser.parse_args(argv)
        return status_of(lambda: work(args), parser.prog.split()[-1], "Partly written files were discarded.")


def check_out(path, overwrite):
    """Refuses a picture that could not be written, before it is made.

    Args:
        path: `pathlib.Path`, what `--out` names.
        overwrite: bool, whether it may exist, as `--overwrite` says.

    Raises:
        ValueError: if it is no PNG file, has no folder, or exists.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"`out` must be the name of a PNG file. Received: {path}. Give it the suffix .png.")
    if not path.parent.is_dir():
        raise UserError(f"`out` must be in an existing folder. Received: {path}. Create {path.parent} first.")
    if path.is_dir():
        raise UserError(f"`out` must be a file. Received: {path}, a folder. Choose another --out.")
    if path.exists() and not overwrite:
        raise UserError(
            f"`out` must not exist yet. Received: {path}, which exists. Choose another --out, or give --overwrite."
        )
