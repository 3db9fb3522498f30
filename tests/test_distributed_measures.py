"""What is measured on data, on several devices: the results of a single one, in all processes."""

import json
import re

import numpy as np
import pytest

from tests.test_distribution import arrays, finish, free_ports, start

pytestmark = pytest.mark.slow

SECONDS = 900


def begin(case, out, **environment):
    return start(case, out, module="tests.measured", **environment)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "one.npz"
    finish([begin("single", out)], SECONDS)
    return arrays(out)


def assert_as_alone(found, alone):
    """Masks to the bit, on each replica, and what was measured to rounding."""
    for name, value in found.items():
        single = alone[re.sub(r"\d$", "0", name) if name not in alone else name]
        if value.dtype == bool:
            np.testing.assert_array_equal(value, single, name)
        else:
            scale = np.abs(single).max(initial=1e-30)
            np.testing.assert_allclose(value, single, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def test_two_replicas_measure_what_one_device_does(alone, tmp_path):
    finish([begin("mirrored", tmp_path / "two.npz")], SECONDS)
    found = arrays(tmp_path / "two.npz")
    assert alone.pop("share").tolist() == [5] and found.pop("share").tolist() == [3, 2]
    assert "runs under `tf.distribute.MirroredStrategy`" in str(found.pop("refusal strategy"))
    assert "instances of `keras.losses.Loss`" in str(found.pop("refusal loss"))
    assert {name for name in found if name.endswith("1")} > {"weight taylor 0 1"}
    assert set(alone) <= set(found)
    assert_as_alone(found, alone)


def test_two_processes_measure_what_one_does(alone, tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    outs = [tmp_path / f"worker_{index}.npz" for index in range(2)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    configs = [json.dumps({"cluster": {"worker": workers}, "task": task}) for task in tasks]
    pairs = zip(outs, configs, strict=True)
    finish([begin("workers", out, TF_CONFIG=config) for out, config in pairs], SECONDS)
    first, second = map(arrays, outs)
    assert [each.pop("share").tolist() for each in (first, second)] == [[3], [2]]
    refused = {name: str(first.pop(name)) for name in list(first) if name.startswith("refusal")}
    others = {name: str(second.pop(name)) for name in list(second) if name.startswith("refusal")}
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], name)
    chance = [first.pop(name) for name in list(first) if name.startswith("chance")]
    assert min(np.mean(mask) for mask in chance if mask.ndim > 1) < 0.7
    left_out = ("distilled", "trained", "share")
    assert {name for name in alone if not name.startswith(left_out)} <= set(first)
    assert_as_alone(first, alone)
    _assert_refused(refused, others)


def _assert_refused(refused, others):
    for name in ("distill", "epochs"):
        assert "cannot share training by Keras's `fit`" in refused[f"refusal {name}"]
    assert "cannot share a budget of latency" in refused["refusal latency"]
    for name in ("other data", "other size"):
        assert "must be the same in all processes" in refused[f"refusal {name}"]
    assert "stateful" in refused["refusal states"]
    assert refused.pop("refusal error").startswith("A measurement on data failed in another")
    assert "inputs of the shapes" in others.pop("refusal error")
    assert refused == others
