"""Completion scripts for shells, made by shtab."""

import argparse
import sys
from pathlib import Path

from tfprune_cli import values


class PrintCompletion(argparse.Action):
    """Prints the script for a shell."""

    def __call__(self, parser, _, shell, *__):
        """Exits with code 0, or 2 where shtab is not installed."""
        try:
            import shtab
        except ImportError:
            parser.error(
                "--print-completion needs shtab. Install with: python -m pip install 'tfprune[cli]'"
            )
        for action in _actions(parser):
            if action.type in (Path, values.file_or_share):
                action.complete = shtab.FILE
        sys.stdout.write(shtab.complete(parser, shell))
        parser.exit()


def _actions(parser):
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
