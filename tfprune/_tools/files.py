"""Atomic writes of files and directories."""

import contextlib
import glob
import os
import pathlib
import shutil
import tempfile

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves behind is not swept up there.
    fcntl = None


@contextlib.contextmanager
def written_whole(path):
    """Writes a file or directory atomically: yields a temporary path that is then renamed.

    The place lies in a hidden directory of its own, `.<name>.partial-*`. It takes the path by
    renaming once the block has ended without an error, and what stood at the path stays until
    then. If the block fails, or a later step does, the hidden directory goes and the path is as it
    was. A process that is killed cannot clean up: its directory stays, never at the path, and the
    next writing to the same path sweeps it up. A directory that stands at the path can only be
    exchanged in two renames; if the process is killed between them, the next writing first puts
    the old one back.

    Args:
        path: A `pathlib.Path`, of a file or a directory. Missing parents are made.

    Yields:
        The `pathlib.Path` to write to; its name is that of `path`.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "sum.txt"
    >>> with written_whole(path) as place:
    ...     characters = place.write_text("2 + 2")
    ...     path.exists()
    False
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('2 + 2', 1)
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _sweep(path)
        with _hidden_directory(path) as directory:
            yield directory / path.name
            _swap(directory / path.name, path, directory / "old")
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        raise


@contextlib.contextmanager
def _hidden_directory(path):
    directory = pathlib.Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    try:
        with _locked(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _prefix(path):
    return f".{path.name}.partial-"


def _swap(new, path, aside):
    """Renames `new` to `path`; what is at the path moves `aside`, and back if that fails."""
    if not new.is_dir():
        new.replace(path)
        return
    is_there = path.exists()
    if is_there:
        path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        if is_there:
            aside.rename(path)
        raise


def _sweep(path):
    """Removes what killed processes left; puts back what one of them had moved aside last."""
    for directory in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        with _locked(directory) as is_ours:
            if is_ours:
                if (directory / "old").exists() and not path.exists():
                    (directory / "old").rename(path)
                shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory):
    """Holds a directory while open; gives whether nobody else does. The system frees it."""
    if fcntl is None:
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by a process that lives, or a file system without locks
        return False
    return True
