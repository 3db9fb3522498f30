"""Ctrl-C, by real signals: one line is said, and nothing is left behind."""

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import tfprune
from tests.cli.places import contents

ROOT = pathlib.Path(tfprune.__file__).parents[1]


def interrupted(folder, command, wait, tries=3):
    """Starts the command, interrupts it when `wait(process, terminal)` returns, looks what is left.

    TensorFlow itself may die of a signal in a step, and leaves what it had begun to write; then
    that goes and it is tried again.
    """
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    before = contents(folder)
    terminal, its_end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "tfprune_cli", *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=its_end,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(its_end)
    wait(process, terminal)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # who is impatient presses twice
    errors = "".join(on_terminal(terminal))
    os.close(terminal)
    assert process.communicate(timeout=120)[0] == b"" or process.returncode == 0
    if process.returncode == 0:
        return False
    if process.returncode < 0 and tries > 1:
        shutil.rmtree(folder / "new", ignore_errors=True)
        return interrupted(folder, command, wait, tries - 1)
    assert process.returncode == 130, errors
    assert errors.endswith(f"tfprune {command[0]}: interrupted.\r\n")
    assert "Traceback" not in errors
    assert contents(folder) == before
    return True


def training(folder):
    command = ["prune", folder / "model.keras", "--data", folder / "data.npz"]
    command += ["--budget", "macs=0.5", "--epochs", "100000"]
    return [*command, "-o", folder / "new/a.keras", "-o", folder / "new/b"]


def on_terminal(terminal):
    """What is written to a terminal, piece by piece, to its end."""
    with contextlib.suppress(OSError):  # nobody writes to it any more
        while piece := os.read(terminal, 4096):
            yield piece.decode(errors="replace")


def until_it_trains(process, terminal):
    """Waits for the third epoch, or a later one: a bar does not show each of short ones."""
    seen, started = "", time.monotonic()
    for piece in on_terminal(terminal):
        seen = seen[-200:] + piece
        if re.search(r"epoch ([3-9]|\d\d+)/", seen):
            return
        if time.monotonic() - started > 240:
            process.kill()
            pytest.fail(f"No epoch is shown in four minutes: {seen!r}")


@pytest.mark.parametrize("when", ["it imports", "it trains"])
def test_ctrl_c_is_one_line_and_leaves_nothing(folder, when):
    wait = until_it_trains if when == "it trains" else until
    assert interrupted(folder, training(folder), wait)


def until(process, _, seconds=0):
    """Waits so long from when the command begins; before that Python itself is starting."""
    while "numpy" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.05)
    time.sleep(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("out", ["new/small", "new/small.tflite"])
def test_ctrl_c_at_any_time(folder, out):
    """Six points of a command from its beginning to the end of its writing."""
    command = ["strip", folder / "model.keras", "-o", folder / out]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tfprune_cli", *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    whole = time.perf_counter() - started
    shutil.rmtree(folder / "new")
    delays = random.Random(out)
    were = []
    for _ in range(3):
        delay = delays.uniform(0, whole)
        were.append(interrupted(folder, command, lambda p, t, s=delay: until(p, t, s)))
        shutil.rmtree(folder / "new", ignore_errors=True)
    assert any(were)
