"""Atomic writes of files and directories."""

import contextlib
import errno
import glob
import hashlib
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

    Raises:
        OSError: If nothing can be written at the path; before the block if that can be known.

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
    with all_written_whole([path]) as (place,):
        yield place


@contextlib.contextmanager
def all_written_whole(paths):
    """Writes several files and directories, all of them or none; see `written_whole`.

    Args:
        paths: A list of `pathlib.Path`, each another.

    Yields:
        A list of the places to write to, in the same order.
    """
    parents = {parent for path in paths for parent in path.parents if not os.path.lexists(parent)}
    try:
        with contextlib.ExitStack() as stack:
            places = []
            for path in paths:
                _make_parent(path)
                _sweep(path)
                places.append(stack.enter_context(_hidden_directory(path)) / path.name)
                _check_name(places[-1])
            yield places
            with contextlib.ExitStack() as undo:
                for place, path in zip(places, paths, strict=True):
                    _swap(place, path, place.parent / "old", undo)
                undo.pop_all()
    except BaseException:
        for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        raise


def _make_parent(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        why = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, why, error.filename) from error


def _check_name(place):
    """Raises an `OSError` if the name is too long for the file system."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(place)


@contextlib.contextmanager
def _hidden_directory(path):
    directory = pathlib.Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    try:
        with _locked(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _prefix(path):
    """The beginning of the names of hidden directories; names have room for 255 bytes."""
    name = path.name
    if len(name.encode()) > 200:
        name = f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f".{name}.partial-"


def _swap(new, path, aside, undo):
    """Renames `new` to `path`. What is at the path moves `aside`, and back when `undo` is closed.

    A file takes the place of another in one step; for a directory there are two.
    """
    _flush(new)
    is_there = path.exists()
    if new.is_dir():
        if is_there:
            path.rename(aside)
            undo.callback(aside.rename, path)
        new.rename(path)
        undo.callback(path.rename, new)
        return
    if is_there:
        _keep(path, aside)
        undo.callback(aside.replace, path)
    else:
        undo.callback(path.unlink, missing_ok=True)
    new.replace(path)


def _keep(path, aside):
    """A second name of a file, or a copy where the file system has no such names."""
    try:
        os.link(path, aside)
    except OSError:
        shutil.copy2(path, aside)


def _flush(path):
    """Waits until what was written is on the disk: only then is it known that it had room."""
    files = path.rglob("*") if path.is_dir() else [path]
    for file in filter(pathlib.Path.is_file, files):
        with contextlib.suppress(PermissionError), file.open("rb+") as opened:
            os.fsync(opened.fileno())


def reason(error):
    """Why a file cannot be written or read, in the words of the system: "No space left on device".

    >>> reason(OSError(28, "Unable to write: a long story of several lines"))
    'No space left on device'
    """
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


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
