"""The files that commands write: checked before any work, and written all or none."""

import contextlib
import os

from tfprune._tools import plots, progress
from tfprune._tools.files import reason, written_whole
from tfprune.cli.errors import InputError, reported
from tfprune.exporting.export import exporting
from tfprune.exporting.targets import SUFFIXES, format_of
from tfprune_cli import native_log


@contextlib.contextmanager
def models(paths, overwrite, **options):
    """Checks that options suit all outputs and these are free; yields what writes a model to them.

    Args:
        paths: A list of `pathlib.Path`; each is to have been through `formats`.
        overwrite: Whether models are replaced.
        **options: Those of `tfprune.export`, `format` among them.
    """
    errors = (ImportError, OSError, ValueError)
    with (
        progress.shown(verbose=1),
        reported(*errors, failures=RuntimeError),
        exporting(paths, overwrite=overwrite, **options) as write,
    ):

        def quietly(model):
            with progress.stage("Write"), native_log.held_back(shown_on_failure=False):
                write(model)

        yield quietly


def formats(paths, overwrite, file_format=None):
    """The formats of outputs, a list.

    Raises:
        InputError: If one is there already, or its name does not fit the format.
    """
    return [_checked_format(path, overwrite, file_format) for path in paths]


def check_only(option, paths, found, *suited):
    """Refuses an option unless all outputs are of the formats that have it.

    Args:
        option: As the command line has it.
        paths: The outputs.
        found: Their formats.
        *suited: The formats that have it.

    Raises:
        InputError: If an output is of another format.
    """
    for path, each in zip(paths, found, strict=True):
        if each not in suited:
            names = " and ".join(SUFFIXES[name] for name in suited)
            raise InputError(
                f"{option} is for {names} files, not for {path}. Write that one without {option}."
            )


def _checked_format(out, overwrite, file_format):
    if not overwrite and os.path.lexists(out):
        raise InputError(f"{out} exists. Give --overwrite to replace it, or another path with -o.")
    with reported(ValueError):
        file_format = format_of(out, file_format)
    suffix = SUFFIXES[file_format]
    if suffix and out.suffix != suffix:
        raise InputError(
            f"{out} must end with {suffix} for --format {file_format}. Give another with -o."
        )
    if not suffix and out.suffix in filter(None, SUFFIXES.values()):
        raise InputError(
            f"{out} must not end with {out.suffix} for --format {file_format}. Give another "
            "with -o."
        )
    return file_format


@contextlib.contextmanager
def picture(path, overwrite):
    """Opens the file of a picture before any work; yields what draws a report in it."""
    if path is None:
        yield lambda found: None
        return
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path} must end with .png, .svg or .pdf. Give another file with --plot.")
    try:
        if os.path.lexists(path) and not overwrite:
            raise InputError(f"{path} exists. Give --overwrite to replace it, or another --plot.")
        with written_whole(path.resolve()) as place:
            with reported(ImportError):
                plots.require("explain --plot")
            yield lambda found: found.plot(place)
    except OSError as error:
        raise InputError(
            f"cannot draw {path}: {reason(error)}. Give another file with --plot."
        ) from error
