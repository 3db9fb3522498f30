"""The command `tfprune`: parses its arguments, then calls `tfprune.cli.commands`.

It is beside the package and not in it, because importing any module of `tfprune` imports
TensorFlow, which takes seconds and writes to the terminal. Help, the version and mistakes in
arguments should not wait for that, and what TensorFlow writes can only be held back from outside.
"""

import argparse
import importlib.metadata
import os
import sys

from tfprune_cli import arguments as of
from tfprune_cli import interrupts, native_log, pruning_arguments
from tfprune_cli.completion import PrintCompletion

_COMMANDS = (
    of.add_compare,
    of.add_demo,
    of.add_explain,
    of.add_export,
    of.add_inspect,
    of.add_latency_table,
    pruning_arguments.add_pareto,
    pruning_arguments.add_prune,
    of.add_strip,
    of.add_summary,
)


def main(argv=None):
    """Runs the command.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0, 1 if the work failed, 2 for bad input, 130 after Ctrl-C.
    """
    arguments = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with interrupts.raised_once(last=argv is None) as came:
        try:
            with native_log.held_back():
                from tfprune.cli import commands

            code = commands.run(arguments)
            sys.stdout.flush()
        except BaseException as error:
            if not came and not isinstance(error, OSError):
                raise
            code = _stopped(arguments, came, error)
    return 130 if came and code else code


def _stopped(arguments, came, error):
    """What is said, and the exit code, after Ctrl-C or where nobody takes what is printed."""
    if came:
        print(f"tfprune {arguments.command}: interrupted.", file=sys.stderr)
        return 130
    if sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter fails at its end
    if isinstance(error, BrokenPipeError):
        return 128 + 13  # as if the signal had ended it
    print(f"tfprune {arguments.command}: {error}", file=sys.stderr)
    return 2


def parse(argv=None):
    """Parses the arguments into an `argparse.Namespace`; exits with code 2 if they are invalid."""
    parser, commands = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    pruning_arguments.check(commands[arguments.command], arguments)
    return arguments


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message):
        """Exits with code 2."""
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _parser():
    parser = _Parser("tfprune", description="Remove neurons from Keras 3 models.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print the completion script for a shell and exit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser, commands.choices


class _Version(argparse.Action):
    """Prints the version; only looks it up when asked, as that reads the disk."""

    def __call__(self, parser, *_):
        """Exits with code 0."""
        print(f"tfprune {importlib.metadata.version('tfprune')}")
        parser.exit()
