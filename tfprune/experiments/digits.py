"""How much of a small network can be pruned, or frozen, while it learns handwritten digits.

A network of 61-32(tanh)-10 is trained for 200 steps. Then, in each of its tensors, a fraction p of
the elements is pruned (set to 0 and not trained any more) or frozen (kept, and not trained any
more), and the rest is trained for 3,000 steps more. Its accuracy on the test set is drawn over p.

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
"""

import functools
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np

from tfprune.criteria import freezing
from tfprune.criteria import weights as criteria
from tfprune.experiments import stacked
from tfprune.files import written_whole
from tfprune.patterns.top_k import highest

SWEEPS = (
    ("prune", "magnitude"),
    ("prune", "random"),
    ("freeze", "preconditioned_gradient"),
    ("freeze", "gradient"),
    ("freeze", "random"),
)
"""What is done to the network, and the criterion: what has the lowest score, it is done to."""


@dataclass(frozen=True)
class Protocol:
    """The numbers of the experiment.

    Args:
        repeats: Integer, trainings for each sweep and fraction, from different initial weights.
        steps_before, steps_after: Integers, steps before and after the intervention.
        rate, batch_size, kappa, rule, double_softmax: See `tfprune.experiments.stacked.Update`.
        first_step: The t of the first step.
        dataset_size: Integer, N. Default: the size of the training set.
        hidden: Integer, hidden units.
        seed: Integer; the same seed gives the same trainings.
    """

    repeats: int = 5
    steps_before: int = 200
    steps_after: int = 3000
    rate: float = 0.01
    batch_size: int = 32
    kappa: float = 1.0
    rule: str = "preconditioned"
    double_softmax: bool = False
    first_step: int = 10
    dataset_size: int | None = None
    hidden: int = 32
    seed: int = 0

    @classmethod
    def of_notebook(cls, **changes):
        """The notebook's loss and N, both wrong, for a comparison."""
        return cls(**{"double_softmax": True, "dataset_size": 2314, **changes})

    def update(self, examples):
        """The `stacked.Update` on a training set of so many examples."""
        return stacked.Update(
            self.rate,
            self.batch_size,
            self.dataset_size or examples,
            self.kappa,
            self.rule,
            self.double_softmax,
        )


@dataclass(frozen=True)
class Digits:
    """The data, standardised: x float32 of shape (examples, 61), y the digits."""

    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)


@functools.cache
def load():
    """The digits of scikit-learn, 1,257 for training and 540 for the test (split with seed 42).

    Features are standardised with mean and deviation of the training set; three of the 64, which
    are always 0 there, are left out.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=42)
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    varies = deviation > 0
    x_train, x_test = (
        ((a - mean)[:, varies] / deviation[varies]).astype("float32") for a in (x_train, x_test)
    )
    return Digits(x_train, y_train, x_test, y_test)


def start(protocol, repeat):
    """The initial network of a repeat, as `stacked.Networks` of one replica; and all its batches.

    Kernels and biases are uniform within sqrt(6 / (inputs + outputs)), C is uniform from 0 to
    sqrt(6 / weights).
    """
    rng = np.random.default_rng([protocol.seed, repeat])
    examples, features = load().x_train.shape
    sizes = ((features, protocol.hidden), (protocol.hidden, 10))
    weights = []
    for inputs, outputs in sizes:
        limit = np.sqrt(6 / (inputs + outputs))
        for shape in ((1, inputs, outputs), (1, outputs)):
            weights.append(rng.uniform(-limit, limit, shape).astype("float32"))
    most = np.sqrt(6 / sum(weight.size for weight in weights))
    covariance = [rng.uniform(0, most, w.shape).astype("float32") for w in weights]
    steps = protocol.steps_before + protocol.steps_after
    batches = rng.integers(0, examples, (steps, protocol.batch_size + 1))
    return stacked.Networks(weights, covariance, step=protocol.first_step), batches


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
        kept = highest(scores, count, mask) if count > 0 else mask
        masks.append(kept)
        weights.append(weight * (kept | ~mask) if action == "prune" else weight)
    return stacked.Networks(weights, networks.covariance, masks, networks.step)


@dataclass(frozen=True)
class Results:
    """Accuracies by sweep.

    Args:
        protocol: `Protocol`.
        fractions: Dict from the name of a sweep, as "prune magnitude", to its fractions p.
        test, train: Dicts from the name to an array of shape (fractions, repeats).
        seconds: Float, how long it took.
    """

    protocol: Protocol
    fractions: dict = field(repr=False)
    test: dict = field(repr=False)
    train: dict = field(repr=False)
    seconds: float = 0.0

    @property
    def trainings(self):
        """How many trainings there were."""
        return sum(np.size(values) for values in self.test.values())

    def mean(self, name, fraction=None):
        """The mean test accuracy over repeats: for each fraction, or for the one given."""
        means = np.mean(self.test[name], axis=1)
        return means if fraction is None else float(means[self._place(name, fraction)])

    def deviation(self, name, fraction=None):
        """The standard deviation over repeats, from the sample (n - 1)."""
        values = np.asarray(self.test[name])
        found = values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))
        return found if fraction is None else float(found[self._place(name, fraction)])

    def lead(self, name, other, low, high):
        """How far one sweep is ahead of another, in test accuracy: for each repeat.

        Args:
            name, other: Names of sweeps.
            low, high: Floats; the lead is the mean over the fractions of both between them, these
                included.

        Returns:
            An array of shape (repeats,).
        """
        shared = set(np.round(self.fractions[name], 6)) & set(np.round(self.fractions[other], 6))
        inside = [p for p in shared if low - 1e-6 <= p <= high + 1e-6]
        first, second = (
            np.mean([self.test[n][self._place(n, p)] for p in inside], axis=0)
            for n in (name, other)
        )
        return first - second

    def _place(self, name, fraction):
        place = int(np.argmin(np.abs(np.asarray(self.fractions[name]) - fraction)))
        if not np.isclose(self.fractions[name][place], fraction):
            raise ValueError(
                f"Argument `fraction` must be one of the sweep {name!r}. "
                f"Received: fraction={fraction}."
            )
        return place

    def save(self, path):
        """Writes a JSON file, whole or not at all."""
        content = {
            "protocol": asdict(self.protocol),
            "seconds": round(self.seconds, 1),
            "sweeps": {
                name: {
                    "fractions": [round(float(p), 4) for p in self.fractions[name]],
                    "test": np.round(self.test[name], 5).tolist(),
                    "train": np.round(self.train[name], 5).tolist(),
                }
                for name in self.fractions
            },
        }
        with written_whole(Path(path)) as place:
            Path(place).write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote."""
        content = json.loads(Path(path).read_text())
        sweeps = content["sweeps"].items()
        return cls(
            Protocol(**content["protocol"]),
            {name: np.array(sweep["fractions"]) for name, sweep in sweeps},
            {name: np.array(sweep["test"]) for name, sweep in sweeps},
            {name: np.array(sweep["train"]) for name, sweep in sweeps},
            content["seconds"],
        )


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
