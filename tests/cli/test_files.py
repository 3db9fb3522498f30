"""Files of the command and of `export`: full disks, closed folders, claims, all or none.

The limits are those of the system: the size of files, the rights of another user.
"""

import contextlib
import io
import os
import resource
import shutil
import time
import zipfile

import keras
import numpy as np
import pytest

from tests.cli.places import X, compiled_model, contents
from tfprune.exporting.export import export, exporting
from tfprune_cli import main

NAMES = {"saved_model": "m", "keras": "m.keras", "litert": "m.tflite", "onnx": "m.onnx"}


def prune(place, *outputs, data="data.npz", model="model.keras", more=()):
    command = ["prune", place / model, "--data", place / data, "--budget", "macs=0.5", *more]
    for out in outputs:
        command += ["-o", place / out]
    return main([str(part) for part in command])


def refused(code, capsys, *words):
    """Whether a command was refused in one line, before anything was printed."""
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("tfprune ") and printed.err.count("\n") == 1
    assert all(word in printed.err for word in words), printed.err
    return printed.out == ""


@contextlib.contextmanager
def file_size_limit(size):
    """What writes more than that to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def another_user():
    """Root may do all: acts as nobody."""
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
            os.setegid(0)


# All outputs or none ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        (("a.keras", "file/b.tflite"), "Not a directory"),
        (("a.keras", "x" * 300 + ".keras"), "name too long"),
        (("a.keras", "new/" + "x" * 300 + "/b.keras"), "name too long"),
        (("a.keras", "a.keras"), "twice"),
        (("a.keras", "b.h5"), ".keras"),
        (("a.keras", "file"), "exists"),
    ],
    ids=["in a file", "long", "in a long one", "twice", "ending", "taken"],
)
def test_outputs_are_checked_before_any_work_and_none_is_written(folder, capsys, outputs, word):
    (folder / "file").write_text("mine")
    before = contents(folder)
    assert refused(prune(folder, *outputs, data="none.npz"), capsys, word)
    assert contents(folder) == before


def test_of_several_outputs_none_is_written_where_one_cannot_be_made(folder, capsys):
    compiled_model(3).save(folder / "b.keras")
    before = contents(folder)
    with file_size_limit(18_000):  # a SavedModel is larger, a `.keras` file is not
        code = prune(folder, "a.keras", "b.keras", "new/c", more=["--overwrite"])
    assert refused(code, capsys, "File too large", "new/c")
    assert contents(folder) == before
    assert prune(folder, "a.keras", "b.keras", "new/c", more=["--overwrite"]) == 0
    assert keras.models.load_model(folder / "b.keras").get_layer("hidden").units == 8
    assert (folder / "new/c/saved_model.pb").is_file()
    assert {path.name for path in folder.iterdir()} == {
        "a.keras", "b.keras", "data.npz", "model.keras", "new"
    }  # fmt: skip


def test_a_later_file_that_cannot_take_its_path_takes_the_earlier_ones_back(folder):
    compiled_model(3).save(folder / "a.keras")
    before = contents(folder)
    small = compiled_model(5)
    paths = [folder / "a.keras", folder / "b", folder / "c.keras"]
    with pytest.raises(IsADirectoryError), exporting(paths, overwrite=True) as write:
        write(small)
        (folder / "c.keras").mkdir()  # by somebody else, meanwhile
    (folder / "c.keras").rmdir()
    assert contents(folder) == before


@pytest.mark.parametrize("format", NAMES)
def test_only_models_are_overwritten(folder, capsys, format):
    if format == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    out = folder / NAMES[format]
    if format == "saved_model":
        export(compiled_model(), out)
        (out / "thesis.txt").write_text("mine")
    else:
        out.write_text("mine, and more than a few letters of it")
    before = contents(folder)
    assert refused(prune(folder, "a.keras", out.name, more=["--overwrite"]), capsys, "no model")
    with pytest.raises(ValueError, match="no model"):
        export(compiled_model(), out, overwrite=True)
    assert contents(folder) == before
    (out / "thesis.txt" if out.is_dir() else out).unlink()
    for _ in range(2):  # what was written is a model
        export(compiled_model(), out, overwrite=True)


def test_the_demo_looks_at_its_files_before_it_trains(folder, capsys):
    pytest.importorskip("sklearn", reason="the extra demo is not installed")
    (folder / "demo").mkdir()
    (folder / "demo/small.keras").write_text("mine")
    before = contents(folder)
    started = time.perf_counter()
    assert refused(main(["demo", "--out", str(folder / "demo")]), capsys, "small.keras", "--out")
    assert time.perf_counter() - started < 5
    assert contents(folder) == before


def test_a_picture_is_checked_before_the_model_and_replaced_where_told(folder, capsys):
    pytest.importorskip("matplotlib", reason="the extra demo is not installed")
    (folder / "p.png").write_text("mine")
    before = contents(folder)
    command = ["explain", str(folder / "model.keras"), "--plot", str(folder / "p.png")]
    assert refused(main(command), capsys, "--overwrite")
    assert contents(folder) == before
    assert main([*command, "--overwrite"]) == 0
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


# Full disks, closed folders, unreadable files ---------------------------------------------------


@pytest.mark.parametrize("limit", [0, 600])
@pytest.mark.parametrize("format", NAMES)
def test_a_full_disk_is_named_and_leaves_what_was_there(folder, capsys, format, limit):
    if format == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    out = folder / "new" / NAMES[format]
    before = contents(folder)
    small = compiled_model(64)
    with file_size_limit(limit), pytest.raises(OSError, match="File too large.*path="):
        export(small, out)
    assert contents(folder) == before
    with file_size_limit(limit):
        code = main(["strip", str(folder / "model.keras"), "-o", str(out)])
    assert refused(code, capsys, "File too large", str(out))
    assert contents(folder) == before


@pytest.mark.parametrize("format", NAMES)
def test_a_closed_folder_is_named(folder, capsys, format):
    if format == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    out = closed / "new" / NAMES[format]
    before = contents(folder)
    small = compiled_model()
    with another_user():
        with pytest.raises(PermissionError, match="Permission denied.*path="):
            export(small, out)
        code = main(["strip", str(folder / "none.keras"), "-o", str(out)])
    assert refused(code, capsys, "Permission denied", str(out))
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["model.keras", "data.npz"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_files_that_the_user_may_not_read_are_refused(folder, capsys, name, what):
    secret = folder / "secret"
    secret.mkdir()
    shutil.copy(folder / name, secret / name)
    (secret if what == "folder" else secret / name).chmod(0o000)
    given = {"model" if name == "model.keras" else "data": f"secret/{name}"}
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    with another_user():
        code = prune(folder, "out/a.keras", **given)
    assert refused(code, capsys, "cannot be read: Permission denied", name)
    assert not list((folder / "out").iterdir())


def test_what_is_no_file_is_not_waited_for(folder, capsys):
    os.mkfifo(folder / "pipe.keras")
    assert refused(main(["inspect", str(folder / "pipe.keras")]), capsys, "not a file")
    assert refused(main(["inspect", str(folder / "a\0b")]), capsys, "null")


# Claims -----------------------------------------------------------------------------------------


def rewritten(source, out, change=lambda parts: None, claim=None):
    """A copy of an archive with changed parts; one may claim another size than it has."""
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        if claim is not None:
            archive.getinfo(claim).file_size = archive.getinfo(claim).compress_size = 5 * 10**12


@pytest.mark.parametrize("part", ["config.json", "model.weights.h5"])
def test_a_model_that_claims_terabytes_is_refused(folder, capsys, part):
    rewritten(folder / "model.keras", folder / "claims.keras", claim=part)
    assert refused(main(["inspect", str(folder / "claims.keras")]), capsys, "5,000,000,0", "claims")


def test_data_that_claim_terabytes_are_refused(folder, capsys):
    header = io.BytesIO()
    claimed = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 6)}
    np.lib.format.write_array_header_1_0(header, claimed)
    with zipfile.ZipFile(folder / "claims.npz", "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, header.getvalue() + bytes(100))
    assert refused(prune(folder, "a.keras", data="claims.npz"), capsys, "TiB", "claims.npz")
    rewritten(folder / "data.npz", folder / "header.npz", claim="x.npy")
    assert refused(prune(folder, "a.keras", data="header.npz"), capsys, "5,000,000,0")


@pytest.mark.parametrize(
    ("units", "word"), [(10**12, "memory"), (10**19, "integer"), (-3, "units")]
)
def test_a_config_of_absurd_sizes_is_refused(folder, capsys, units, word):
    def change(parts):
        config = parts["config.json"].replace(b'"units": 16', b'"units": %d' % units)
        assert config != parts["config.json"]
        parts["config.json"] = config

    rewritten(folder / "model.keras", folder / "huge.keras", change)
    assert refused(main(["inspect", str(folder / "huge.keras")]), capsys, word, "huge.keras")


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "timedelta64[s]"])
def test_data_that_are_no_real_numbers_are_refused(folder, capsys, dtype):
    for name, arrays in (
        ("x", {"x": X.astype(dtype), "y": X}),
        ("y", {"x": X, "y": X.astype(dtype)}),
    ):
        np.savez(folder / "bad.npz", **arrays)
        assert refused(prune(folder, "a.keras", data="bad.npz"), capsys, f"{name} in", dtype)
