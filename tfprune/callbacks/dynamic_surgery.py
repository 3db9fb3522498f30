"""Dynamic network surgery: prunes weights and splices them back while all of them are trained."""

import math

import keras
import numpy as np

from tfprune import schedules
from tfprune._tools.checks import check_integer, is_number
from tfprune.callbacks.through_masks import ThroughMasks
from tfprune.masks import layer_filter
from tfprune.masks.straight_through import MaskedRead
from tfprune.patterns import top_k_mask, top_k_masks
from tfprune.schedules import FOREVER, checks
from tfprune.weights import distributions
from tfprune.weights.scores import error_context


@keras.saving.register_keras_serializable("tfprune")
class DynamicSurgery(ThroughMasks):
    """Dynamic network surgery: prunes weights by two thresholds, and splices them back.

    Layers compute with the elements whose mask is on, and zeros for the others, while all elements
    are trained: the gradient passes to those that are off too. At an update a mask goes

        off where |w| <= (1 - hysteresis) * t,   on where |w| > (1 + hysteresis) * t,

    and stays as it is in between, so elements near the threshold t do not flicker. With a `target`
    the threshold of each weight is the one at which exactly the sparsity of the schedule is left
    out. With `deviations`, as in the paper, it is fixed when training begins, and the sparsity is
    what comes of it:

        t = max(0, mean(|w|) + deviations * std(|w|))     over the elements that are not pruned.

    Updates are made where the schedule has them due, and besides every `frequency` steps at first,
    then ever more rarely until `end_step`: up to step s, counted from the first update, there are
    (s - s^2 / (2 end)) / frequency of them. After `end_step` the masks rest, so that the network
    can settle; leave it some epochs for this.

    During training the stored weights are dense and the masks of the model unchanged: `get_weights`
    and files written meanwhile hold all elements, whereas the model computes with those whose mask
    is on, in `evaluate` and `predict` too. When training ends, the others are pruned with
    `tfprune.set_masks`; from then on they stay 0, and `tfprune.strip` sees them. If an error stops
    training, call `finish(model)` to do this.

    Elements that were pruned before stay pruned, and frozen ones stay on. Weight decay and
    regularizers act on the stored weights. The logs get `sparsity`, the share of the selected
    weights that is left out, and `spliced`, how many elements came back at the last update.

    The masks are state: `tfprune.callbacks.BackupAndRestore` keeps it. With Keras's, training goes
    on from the masks that the weights alone give.

    Without `fit`, give an `end_step`, call `after_step(model)` once before the step function is
    traced and then once per step, and `finish(model)` at the end.

    Args:
        target: The sparsity: a number, which is reached gradually (`PolynomialDecay`) over the
            first half of `fit`; or a `tfprune.schedules.Schedule`, its configuration, or a callable
            step -> sparsity. None with `deviations`.
        deviations: In place of a target: a number, or a dict from layers or their names to numbers,
            in standard deviations above the mean; negative ones prune less.
        hysteresis: Float from 0 up to, not including, 1: half the distance of the two thresholds,
            in parts of t.
        frequency: Integer, the steps between two updates at first.
        end_step: The last step at which masks change, counted as the schedule counts. By default
            three quarters of `fit`.
        distribution: "uniform", "erk", "global", a dict or a callable; see
            `tfprune.distributions`. With "global" all weights have one threshold.
        only, exclude: Layers whose weights are pruned, and whose are not; see
            `tfprune.prune_weights`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Raises:
        ValueError: If an argument is wrong; at the start of training, if there is nothing to prune,
            or a weight is trained so already; at an update, if a weight is NaN or infinite, or more
            is frozen than may be kept. Masks are then as they were.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(5, name="d")])
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(
    ...     x, y, batch_size=2, epochs=4, callbacks=[DynamicSurgery(0.8)], verbose=0)
    >>> history.history["sparsity"][-1], tfprune.summary(model).weights[0].sparsity
    (0.8, 0.8)

    Reference:
        Y. Guo, A. Yao, Y. Chen, "Dynamic Network Surgery for Efficient DNNs",
        https://arxiv.org/abs/1608.04493, equations 2 and 3. There t is set by hand for each layer,
        hysteresis is 0.1, and updates are drawn at random, ever more rarely.
    """

    _spreads_numbers = True

    def __init__(
        self,
        target=None,
        *,
        deviations=None,
        hysteresis=0.1,
        frequency=10,
        end_step=None,
        distribution="uniform",
        only=None,
        exclude=None,
        verbose=0,
    ):
        if (target is None) == (deviations is None):
            raise ValueError(
                "Give either a `target` or `deviations`. "
                f"Received: target={target!r}, deviations={deviations!r}."
            )
        if deviations is not None and distribution != "uniform":
            raise ValueError(
                "With `deviations` each weight has a threshold of its own, so there is no "
                f"`distribution`. Received: distribution={distribution!r}. Give `deviations` as a "
                "dict from layers to numbers."
            )
        super().__init__(
            schedules.Constant(0.0, end_step=0) if target is None else target,
            distribution=distribution,
            only=only,
            exclude=exclude,
            verbose=verbose,
        )
        _check_deviations(deviations)
        if not is_number(hysteresis) or not 0 <= hysteresis < 1:
            raise ValueError(
                "Argument `hysteresis` must be a number from 0 up to, not including, 1. "
                f"Received: hysteresis={hysteresis!r}."
            )
        check_integer("frequency", frequency)
        if end_step is not None:
            checks.time("end_step", end_step, self.schedule.unit, minimum=1)
        self.deviations = deviations
        self.hysteresis = hysteresis
        self.frequency = frequency
        self.end_step = end_step
        self._thresholds = None
        self._end = None

    def make_read(self, weight):
        """Leaves out the elements whose mask is off."""
        return MaskedRead(weight.mask)

    def begin(self):
        """All masks are on, and thresholds not known yet."""
        self._thresholds = None
        self._spliced = 0

    def final_masks(self):
        """The masks at the last update, without what was pruned since."""
        return [
            on & weight.trainable_mask for on, weight in zip(self._on(), self._weights, strict=True)
        ]

    def after_step(self, model, optimizer=None):
        """Makes the update that is due: the one call per step of a custom loop."""
        if self._end is None and self.end_step is None and not self._is_in_fit:
            raise ValueError(
                "In a training loop of your own nobody says how long it is. Give an `end_step`, "
                f"the last step at which masks change. Received: {self._described()}."
            )
        return super().after_step(model, optimizer)

    def update(self, model, sparsity, optimizer):
        """Prunes and splices, so that exactly `sparsity` is left out, or by fixed thresholds."""
        before = self._on()
        if self.deviations is None:
            masks = self._at_sparsity(model, before, sparsity)
        else:
            masks = self._at_thresholds(model, before)
        for read, mask in zip(self.reads(), masks, strict=True):
            read.kept.assign(mask)
        self._spliced = sum(
            int(np.count_nonzero(mask & ~on)) for mask, on in zip(masks, before, strict=True)
        )

    def measure(self, model):
        """The share of the selected weights that is left out, and the elements that came back."""
        masks = self.final_masks()
        kept, size = sum(map(np.count_nonzero, masks)), sum(mask.size for mask in masks)
        return {"sparsity": float((size - kept) / size), "spliced": float(self._spliced)}

    def on_train_begin(self, logs=None):
        """Makes the layers compute with the elements whose masks are on."""
        self._end, self._is_in_fit = None, True
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        """Finds when masks are to rest; only now is the epoch known at which training continues."""
        if self._end is None and self.end_step is None:
            total = self._steps_per_epoch() * self.params["epochs"]
            done = self._steps_per_epoch() * epoch
            start = max(0, self._step(self.model) - round(done))
            self._end = max(1, start + math.floor(0.75 * total))
        super().on_epoch_begin(epoch, logs)

    def on_train_end(self, logs=None):
        """Prunes the elements that are left out."""
        self._is_in_fit = False
        super().on_train_end(logs)

    def get_state(self):
        """The state for `BackupAndRestore`: masks, thresholds, and when the last update was."""
        masks = [np.packbits(mask) for mask in self._on()]
        own = {"on": masks, "thresholds": self._thresholds, "spliced": self._spliced}
        return {**super().get_state(), **own, "end": self._end, "updated": self._last_update}

    def set_state(self, state):
        """Gives the state back."""
        super().set_state(state)
        for read, bits in zip(self.reads(), state["on"], strict=True):
            shape = tuple(read.kept.shape)
            read.kept.assign(np.unpackbits(bits, count=math.prod(shape)).reshape(shape) > 0)
        self._thresholds, self._spliced = state["thresholds"], state["spliced"]
        self._end, self._last_update = state["end"], state["updated"]
        self._measured = None

    def get_config(self):
        """The arguments that make this callback again, layers by their names."""
        config = super().get_config()
        if self.deviations is not None:
            config["target"] = None
        deviations = self.deviations
        if isinstance(deviations, dict):
            deviations = layer_filter.serialize_keys("deviations", deviations)
        return {
            **config,
            "deviations": deviations,
            "hysteresis": self.hysteresis,
            "frequency": self.frequency,
            "end_step": self.end_step,
        }

    _is_in_fit = False

    def _on(self):
        return [keras.ops.convert_to_numpy(read.kept) for read in self.reads()]

    def _schedule_in_steps(self):
        schedule = super()._schedule_in_steps()
        end = self._end
        if self.end_step is not None:
            in_epochs = self.schedule.unit == checks.EPOCH
            end = math.ceil(self.end_step * self._steps_per_epoch()) if in_epochs else self.end_step
        return schedule if end is None else _WithUpdates(schedule, self.frequency, end)

    def _at_sparsity(self, model, before, sparsity):
        """The mask is on for the highest scores: one threshold for |w| / (1 -+ hysteresis)."""
        scores = [
            np.abs(weight.value) / np.where(on, 1 - self.hysteresis, 1 + self.hysteresis)
            for weight, on in zip(self._weights, before, strict=True)
        ]
        limits = [
            {"trainable": weight.trainable_mask, "frozen": weight.frozen_mask}
            for weight in self._weights
        ]
        if self.distribution is distributions.GLOBAL:
            for weight, score, limit in zip(self._weights, scores, limits, strict=True):
                with error_context(weight):  # whose scores are not finite, the error names
                    top_k_mask(score, 0.0, **limit)
            together = {kind: [limit[kind] for limit in limits] for kind in limits[0]}
            return top_k_masks(scores, sparsity, keep_one=True, **together)
        final = self.schedule.final
        shares = distributions.allocate(self.distribution, model, self._weights, sparsity, final)
        masks = []
        for weight, score, share, limit in zip(self._weights, scores, shares, limits, strict=True):
            with error_context(weight):
                masks.append(top_k_mask(score, share, **limit))
        return masks

    def _at_thresholds(self, model, before):
        magnitudes = []
        for weight in self._weights:
            with error_context(weight):  # also where a value is not finite
                top_k_mask(weight.value, 0.0, trainable=weight.trainable_mask)
            magnitudes.append(np.abs(weight.value).astype("float64"))
        if self._thresholds is None:
            self._thresholds = [
                _threshold(magnitude[weight.trainable_mask], deviations)
                for weight, magnitude, deviations in zip(
                    self._weights, magnitudes, self._deviations_of(model), strict=True
                )
            ]
        return [
            _switched(on, magnitude, t, self.hysteresis, weight)
            for weight, on, magnitude, t in zip(
                self._weights, before, magnitudes, self._thresholds, strict=True
            )
        ]

    def _deviations_of(self, model):
        """The deviations of each weight; later keys win over earlier ones."""
        if not isinstance(self.deviations, dict):
            return [self.deviations] * len(self._weights)
        found = [None] * len(self._weights)
        for key, value in self.deviations.items():
            matches = layer_filter.predicate(key, model, "deviations")
            for index, weight in enumerate(self._weights):
                if matches(weight.layer, weight.name):
                    found[index] = value
        missing = [
            w.layer.name for w, value in zip(self._weights, found, strict=True) if value is None
        ]
        if missing:
            raise ValueError(
                "Argument `deviations` as a dict must name every layer whose weights are pruned. "
                f"Received: {sorted(map(str, self.deviations))}, without {missing}. Name them, or "
                "leave them out with `exclude`."
            )
        return found


class _WithUpdates:
    """A schedule in steps with more updates due, ever more rarely until a last step."""

    def __init__(self, schedule, frequency, end):
        self.schedule = schedule
        self.frequency = frequency
        self.end = end
        is_endless = schedule.end_step == FOREVER
        self.end_step = FOREVER if is_endless else max(schedule.end_step, end)

    def __call__(self, step):
        return self.schedule(step)

    def last_due(self, step):
        """The last step up to `step` at which an update is due, else `None`."""
        due = self.schedule.last_due(step)
        if due is None:
            return None
        begin = self.schedule.begin_step
        length, now = self.end - begin, step - begin
        if length <= 0:
            return due
        if now >= length:
            return max(due, self.end)
        count = math.floor((now - now**2 / (2 * length)) / self.frequency + 1e-9)
        root = math.sqrt(max(0.0, 1 - 2 * count * self.frequency / length))
        return max(due, min(step, begin + math.ceil(length * (1 - root) - 1e-6)))


def _threshold(magnitudes, deviations):
    """The mean and some standard deviations of the magnitudes, but not below 0."""
    if not magnitudes.size:
        return 0.0
    return max(0.0, float(np.mean(magnitudes) + deviations * np.std(magnitudes)))


def _switched(on, magnitude, threshold, hysteresis, weight):
    """The mask after an update by two thresholds."""
    after = on & ~(magnitude <= (1 - hysteresis) * threshold)
    after |= magnitude > (1 + hysteresis) * threshold
    return (after & weight.trainable_mask) | (weight.frozen_mask & weight.trainable_mask)


def _check_deviations(given):
    values = given.values() if isinstance(given, dict) else [] if given is None else [given]
    for value in values:
        if not is_number(value) or not math.isfinite(value):
            raise ValueError(
                "Argument `deviations` must be a number, or a dict from layers to numbers. "
                f"Received: deviations={given!r}."
            )
