"""The digits experiment: accuracy of a small network over the fraction pruned or frozen.

A network of 61-32(tanh)-10 is trained for 200 steps. Then, in each of its tensors, a fraction p of
the elements is pruned (set to 0 and no longer trained) or frozen (kept and no longer trained), and
the rest is trained for 3,000 more steps. The result is the test accuracy over p.

The step is that of Mandt, Hoffman and Blei, see `tfprune.experiments.stacked.Update`. Their paper
prunes nothing: it takes C for the diagonal of the covariance of the gradient noise, N for the size
of the data set, a learning rate of 1 on top of H = 2 S / (N C), and looks at where the weights end.
The notebook that this experiment comes from puts a learning rate of 0.01 on top, starts t at 10,
and draws batches and the example of g_1 independently, with replacement; so does this program. It
deviates from the notebook where that is wrong:

* N is the size of the training set, 1,257. The notebook takes the number of weights, 2,314.
* The softmax is applied once. The notebook's loss applies it to its own output again, and so cannot
  fall below 1.461.
* Accuracies are those of the test set. The notebook's pool the training and the test set.
* Every step of a training moves the weights. The notebook's first step of each `fit` does not.
* Masks add up. After the notebook's reset, which draws new weights instead of restoring the first,
  a network that is masked a second time forgets its first mask.

`Protocol.of_notebook()` has the first two as they were. The trainings of one repeat share the first
200 steps and the order of batches, so the curves of a repeat differ by the intervention alone.

The network is small enough that 253 of them are trained as one matrix product. The training loop is
written without Keras; `benchmarks/digits_sweep.py` compares it with `fit` and masks.
"""

import time

import keras
import numpy as np

from tfprune.criteria import freezing
from tfprune.criteria import weights as criteria
from tfprune.experiments import stacked
from tfprune.experiments.digits_protocol import Protocol, load, start
from tfprune.experiments.digits_results import Results
from tfprune.patterns.top_k import keep_highest

SWEEPS = (
    ("prune", "magnitude"),
    ("prune", "random"),
    ("freeze", "preconditioned_gradient"),
    ("freeze", "gradient"),
    ("freeze", "random"),
)
"""Pairs of an action and a criterion: elements with the lowest scores are pruned or frozen."""


def intervene(networks, action, criterion, fraction, seed, double_softmax=False):
    """Prunes or freezes `int(size * fraction)` elements of each tensor of one replica.

    Elements that are masked already stay so and count.

    Args:
        networks: `stacked.Networks` of one replica.
        action: "prune" or "freeze".
        criterion: "magnitude", "gradient", "preconditioned_gradient" or "random". Gradients are
            those on the whole training set, C the estimate of the network.
        fraction: Float from 0 to 1.
        seed: A sequence of integers, for "random".
        double_softmax: Of the loss whose gradient is taken.

    Returns:
        `stacked.Networks` of one replica.
    """
    measured = {"gradient": [None] * 4}
    if criterion in ("gradient", "preconditioned_gradient"):
        x, y = load().x_train, load().y_train
        measured["gradient"] = stacked.gradients(networks, x, y, double_softmax=double_softmax)
    measured["gradient_variance"] = networks.covariance
    score = freezing.get(criterion)
    weights, masks = [], []
    for place, (weight, mask) in enumerate(zip(networks.weights, networks.masks, strict=True)):
        of_weight = {name: arrays[place] for name, arrays in measured.items()}
        scores = criteria.score(score, weight, [*seed, place], of_weight)
        count = int(weight.size * fraction + 1e-6) - np.count_nonzero(~mask)  # 0.28 * 25 is 7
        kept = keep_highest(scores, count, mask) if count > 0 else mask
        masks.append(kept)
        weights.append(weight * (kept | ~mask) if action == "prune" else weight)
    return stacked.Networks(weights, networks.covariance, masks, networks.step)


def fractions_of(action, points=51):
    """The fractions of a sweep: 0, 0.02, ... 1, for pruning without 1."""
    fractions = np.linspace(0, 1, points)
    return fractions[:-1] if action == "prune" else fractions


def sweep(protocol=None, *, sweeps=SWEEPS, fractions=None, at_once=256, verbose=1):
    """Runs the experiment: all trainings of a repeat at once.

    Args:
        protocol: `Protocol`.
        sweeps: Pairs of an action and a criterion, of `SWEEPS`.
        fractions: A sequence of fractions for all sweeps. Default: those of `fractions_of`, which
            makes 1,265 trainings.
        at_once: Integer, how many networks are trained together; a bound on the memory.
        verbose: 0 is quiet, 1 shows a progress bar.

    Returns:
        `Results`.

    Example:

    >>> quick = Protocol(repeats=1, steps_before=20, steps_after=30)
    >>> results = sweep(quick, sweeps=SWEEPS[:2], fractions=[0.0, 0.5], verbose=0)
    >>> results.trainings, results.test["prune random"].shape
    (4, (2, 1))
    """
    protocol = Protocol() if protocol is None else protocol
    began = time.perf_counter()
    points = {
        " ".join(pair): np.asarray(fractions_of(pair[0]) if fractions is None else fractions)
        for pair in sweeps
    }
    plan = [(pair, p) for pair in sweeps for p in points[" ".join(pair)]]
    chunks = [plan[begin : begin + at_once] for begin in range(0, len(plan), at_once)]
    steps = protocol.steps_before + len(chunks) * protocol.steps_after
    progress = keras.utils.Progbar(protocol.repeats * steps, verbose=verbose, unit_name="step")
    test, train = (np.empty((len(plan), protocol.repeats)) for _ in range(2))
    for repeat in range(protocol.repeats):
        networks = list(_repeat(protocol, repeat, chunks, progress.add))
        for kind, x, y in (
            (test, load().x_test, load().y_test),
            (train, load().x_train, load().y_train),
        ):
            kind[:, repeat] = np.concatenate([stacked.accuracy(n, x, y) for n in networks])
    places = np.cumsum([0, *map(len, points.values())])
    test, train = (
        {name: values[a:b] for name, a, b in zip(points, places, places[1:], strict=False)}
        for values in (test, train)
    )
    return Results(protocol, points, test, train, time.perf_counter() - began)


def _repeat(protocol, repeat, chunks, on_steps):
    """The trained networks of a repeat, chunk by chunk."""
    data = load()
    update = protocol.update(len(data.x_train))
    network, batches = start(protocol, repeat)
    before, after = np.split(batches, [protocol.steps_before])
    network = stacked.train(network, data.x_train, data.y_train, before, update, on_steps)
    for place, chunk in enumerate(chunks):
        ready = [
            intervene(
                network,
                *pair,
                fraction,
                [protocol.seed, repeat, place, member],
                protocol.double_softmax,
            )
            for member, (pair, fraction) in enumerate(chunk)
        ]
        ready = stacked.together(ready)
        yield stacked.train(ready, data.x_train, data.y_train, after, update, on_steps)
