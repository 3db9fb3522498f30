"""A masked model of full size, and the small models that are extracted from it for training.

The small model, without the pruned units, is trained. To prune more, its weights and slots are
written back to their positions in the full model, which is masked; units are pruned there, and a
new small model is extracted. So a target always is a share of the model given, and the masks are
those of a training that never rebuilds.

Weights that are 0 but not masked may still be trained. `strip` would remove a residual branch whose
last scale starts at 0, so the analysis reads 1 in the place of such zeros.
"""

import contextlib
import functools

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.index_maps import gathered, kept_index_maps
from tfprune.coupling.sizes import scale_factors
from tfprune.masks import layer_filter
from tfprune.masks.setting import masked_layers
from tfprune.rebuild import convert, copied_state
from tfprune.rebuild.engine import rebuild
from tfprune.rebuild.fake_quantization import is_quantize_aware
from tfprune.rebuild.new_values import added_constants, gathered_slot, refuse_summands
from tfprune.stripping.check import check_equal
from tfprune.stripping.inlining import inlined
from tfprune.stripping.liveness import Liveness
from tfprune.stripping.prunable import prunable
from tfprune.units.prune_units import prune_units
from tfprune.units.selection import selection as selections


class ShrinkableModel:
    """A masked model of full size, and the small models that are extracted from it.

    Args:
        model: A compiled model, of stock or of drop-in layers. It is not changed.
        check: Whether each small model is run beside the full one and compared.

    Raises:
        ValueError: If the model cannot be made prunable.
    """

    def __init__(self, model, *, check=True):
        if is_quantize_aware(model):
            raise ValueError(
                "Cannot shrink a model with fake quantisation while it trains. "
                f"Received: model={model.name!r}. Shrink the model first, and give what is "
                "returned to `tfprune.quantize_aware`; or train with masks and call "
                "`tfprune.strip` at the end."
            )
        self.strategy = model.distribute_strategy
        self.check = check
        with self.strategy.scope():
            if _keras.functional(model) is None:
                model = inlined(model)
            self.full = prunable(model)
            self._of_full = layer_filter.Counterparts(model, self.full)
        self._small = None
        self._extraction = None

    def prune(self, target, selection="uniform", only=None, exclude=None, **arguments):
        """Prunes units of the full model; layers are those of the model given.

        The arguments are those of `tfprune.prune_units`.
        """
        with self.strategy.scope():
            return prune_units(
                self.full,
                target,
                selection=selections.get(selection).for_copy(self._of_full),
                only=self._of_full.filter(only),
                exclude=self._of_full.filter(exclude),
                **arguments,
            )

    def extract(self, masked=False):
        """A small model, compiled, with the slots of the full one's optimizer.

        It has drop-in layers where masks are left in it, or `masked` is set.

        Returns:
            The model and a `StripReport`, which compares it with the full one; None if the small
            model there is has the same units.

        Raises:
            ValueError: If the model cannot be rebuilt.
            RuntimeError: If the outputs differ, which would be a defect.
        """
        with self.strategy.scope():
            extraction = _Extraction(self.full)
            if self._extraction is not None and extraction.is_like(self._extraction):
                return None
            liveness = extraction.liveness
            small = rebuild(liveness.model, extraction.kept_units, liveness.folds, liveness.dropped)
            checked = check_equal(self.full, small) if self.check else None
            report = liveness.report(small, checked)
            if masked or extraction.has_masks:
                small = prunable(small)
                extraction.copy_masks(small)
        self._extraction, self._small = extraction, small
        return small, report

    def finished(self, masked=False):
        """The small model to return: of stock layers, unless `masked`."""
        if masked or not masked_layers(self._small):
            return self._small
        with self.strategy.scope():
            stock = convert.without_masks(self._small)
            copied_state.copy_compile_state(self._small, stock)
        return stock

    def write_back(self):
        """Writes weights, slots and counters of the small model back to the full one."""
        with self.strategy.scope():
            self._extraction.write_back(self._small)

    def extract_again(self, masked=False):
        """A small model of the full one with the weights and masks that it has got meanwhile."""
        self._extraction = None
        return self.extract(masked)

    def units(self):
        """The number of removable units that the small model has."""
        coupling, counts = self._extraction.liveness.coupling, self._extraction.kept_units.counts
        return sum(int(counts[s.units].sum()) for s in coupling.sets if s.removable)


class _Extraction:
    """The elements of the full model that a small one has."""

    def __init__(self, full):
        self.full = full
        self.liveness = Liveness(full, _zeros_hidden)
        self.kept_units = self.liveness.kept_units
        self._check_biases()
        self._index_maps = kept_index_maps(self.kept_units)
        self._added = added_constants(self.liveness.folds)
        refuse_summands(self.kept_units)
        self._factors = scale_factors(self.kept_units)

    def _check_biases(self):
        for folds in self.liveness.folds.values():
            for fold in folds:
                if fold.layer.bias is None:
                    raise ValueError(
                        "Cannot shrink the model while it trains, because a pruned unit emits a "
                        "constant that a layer without a bias uses and does not mask. "
                        f"Received: layer={fold.layer.name!r} ({type(fold.layer).__name__}). Give "
                        "it a bias, or train with masks and call `tfprune.strip` at the end."
                    )

    @functools.cached_property
    def has_masks(self):
        """Whether masked elements are left in the small model."""
        used = {id(call.operation) for call in self.liveness.calls}
        masks = [
            mask
            for layer in masked_layers(self.full)
            if id(layer) in used
            for mask in layer.masks_by_name.values()
        ]
        return any(f.any() or not t.all() for t, f in map(self._masks_of, masks))

    def is_like(self, other):
        """Whether both have the same units, and no masks that could differ."""
        same = np.array_equal(self.kept_units.counts, other.kept_units.counts)
        return same and not self.has_masks

    def copy_masks(self, small):
        """Gives a small model of drop-in layers the masks that are left."""
        for ours, theirs in _keras.layer_pairs(self.full, small):
            for name, mask in getattr(ours, "masks_by_name", {}).items():
                if name in getattr(theirs, "masks_by_name", {}):
                    theirs.masks_by_name[name].set(*self._masks_of(mask))

    def _masks_of(self, mask):
        selected = self._index_maps.get(id(mask.weight), {})
        return [gathered(_keras.values(m), selected, None) for m in (mask.trainable, mask.frozen)]

    def write_back(self, small):
        """Writes the state of a small model into the full one."""
        pairs = list(_keras.variable_pairs(self.full, small))
        for ours, theirs in pairs:
            value = np.array(keras.ops.convert_to_numpy(_keras.raw(ours)))
            positions = self._positions(ours, value.shape)
            value.reshape(-1)[positions] = self._as_in_full(ours, theirs, positions)
            ours.assign(value)
        by_small = {id(theirs): ours for ours, theirs in pairs}

        def take_slot(variable, value, counterpart, name):
            ours = by_small[id(variable)]
            full = np.array(keras.ops.convert_to_numpy(_keras.raw(counterpart)))
            places = np.arange(full.size).reshape(full.shape)
            selected = self._index_maps.get(id(ours), {})
            full.reshape(-1)[gathered_slot(ours, places, selected, None, name)] = value
            return full

        copied_state.copy_compile_state(small, self.full, take_slot)

    def _positions(self, variable, shape):
        """For each element of a small variable its flat index in the full one."""
        places = np.arange(int(np.prod(shape))).reshape(shape)
        return gathered(places, self._index_maps.get(id(variable), {}), None)

    def _as_in_full(self, ours, theirs, positions):
        """The value of a small variable without the changes of its extraction."""
        value = keras.ops.convert_to_numpy(_keras.raw(theirs))
        if id(ours) in self._factors:
            factor, summand = self._factors[id(ours)]
            value = ((value - summand) / factor).astype(value.dtype)
        if id(ours) in self._added:
            added = np.broadcast_to(self._added[id(ours)], ours.shape).reshape(-1)[positions]
            value = (value - added).astype(value.dtype)
        return value


@contextlib.contextmanager
def _zeros_hidden(model):
    """While open, elements that are 0 but not pruned are 1: training may move them yet.

    A residual branch whose norm starts with a scale of 0 does nothing before the first step, and
    must not be taken for dead.
    """
    kept = {id(variable): (variable, True) for variable in model.trainable_variables}
    for layer in masked_layers(model):
        for mask in layer.masks_by_name.values():
            kept[id(mask.weight)] = mask.weight, _keras.values(mask.trainable)
    before = []
    try:
        with _keras.unguarded():
            for weight, is_kept in kept.values():
                value = keras.ops.convert_to_numpy(_keras.raw(weight))
                is_hidden = (value == 0) & is_kept
                if is_hidden.any():
                    before.append((weight, value))
                    weight.assign(np.where(is_hidden, np.ones_like(value), value))
        yield
    finally:
        with _keras.unguarded():
            for weight, value in before:
                weight.assign(value)
