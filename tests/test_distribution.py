"""Masks on several devices: the same on each, and those of a single one."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 240


def start(case, *arguments, module="tests.distributed", **environment):
    command = [sys.executable, "-m", module, case, *map(str, arguments)]
    environment = {**os.environ, **environment}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finish(processes, seconds=SECONDS):
    """Waits for all, and leaves none behind that hangs."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error[-3000:]


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file}


def assert_same_masks_as_alone(found, alone):
    """The masks to the bit, the weights to rounding, on every replica."""
    for name, value in found.items():
        single = alone[re.sub(r"\d$", "0", name)]
        if name.startswith("weight"):
            np.testing.assert_allclose(value, single, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, single, name)


def assert_pruned(found):
    pruned = [np.mean(~value) for name, value in found.items() if name.startswith("trainable")]
    assert max(pruned) > 0.4
    for name, value in found.items():
        if name.startswith("weight"):
            assert not value[~found[name.replace("weight", "trainable")]].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["weights", "units", "rewired", "straight", "surgery", "gates", "frozen"]
)
def test_two_replicas_under_fit_have_the_masks_of_one_device(kind, tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    finish([start("single", kind, one)])
    finish([start("mirrored", kind, two)])
    found = arrays(two)
    for name in [name for name in found if name.endswith(" 0")]:
        np.testing.assert_array_equal(found[name], found[name[:-1] + "1"], name)
    if kind == "frozen":
        assert max(np.mean(value) for name, value in found.items() if kind in name) > 0.4
    else:
        assert_pruned(found)
    assert_same_masks_as_alone(found, arrays(one))


@pytest.mark.slow
def test_a_mirrored_model_shrinks_as_on_one_device(tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    finish([start("single", "shrink", one)])
    finish([start("mirrored", "shrink", two)])
    alone, found = arrays(one), arrays(two)
    assert alone["weight 0 kernel 0"].shape == (6, 6)
    for name, value in found.items():
        single = alone[re.sub(r"\d$", "0", name)]
        np.testing.assert_allclose(value, single, rtol=1e-4, atol=1e-6, err_msg=name)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "units"])
def test_two_processes_have_the_masks_of_one(kind, tmp_path):
    finish([start("loop", kind, tmp_path / "one.npz")])
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    outs = [tmp_path / f"worker_{index}.npz" for index in range(2)]
    finish(
        [
            start(
                "workers",
                kind,
                out,
                TF_CONFIG=json.dumps(
                    {
                        "cluster": {"worker": workers},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            )
            for index, out in enumerate(outs)
        ]
    )
    first, second = map(arrays, outs)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], name)
    assert_pruned(first)
    assert_same_masks_as_alone(first, arrays(tmp_path / "one.npz"))


def test_the_loop_of_the_guide_is_the_one_that_is_run():
    page = (ROOT / "docs/guides/distribution.md").read_text("utf-8")
    code = page.split("```py\n")[1].split("```")[0].splitlines()
    script = (ROOT / "tests/distributed.py").read_text("utf-8").splitlines()
    assert len(code) > 10
    assert not {line.strip() for line in code} - {line.strip() for line in script}
