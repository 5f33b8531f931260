"""Commands whose arguments `argparse` reads."""

from keras_moco.command_line.exit_status import status_of
from keras_moco.command_line.standard_streams import plain_output


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
