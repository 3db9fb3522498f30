"""Parts of users' models and layers that no `call` reaches, such as a head of a `train_step`.

What they compute, and of what, is in no trace. Where the model or layer around them stays what it
is, it goes on calling them when it is smaller, so units that they may read are pinned.
"""

from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.coupling.composite import trains_otherwise


@dataclass(frozen=True, eq=False)
class Unreached:
    """A part that the traced `call` of the model or layer around it does not call.

    Attributes:
        holder: The model or layer.
        part: A layer or model with weights, or a weight of the holder itself.
        stays: Whether the holder stays what it is, so that it goes on calling the part.
        twin: A part that is called and has weights of the same shapes, as one has whose moving
            average the part is; or None.
    """

    holder: keras.layers.Layer
    part: object
    stays: bool
    twin: object = None

    @property
    def reason(self):
        """Why units stay that the part may read."""
        return (
            f"{self.part.name!r} may read it, which the `call` of {self.holder.name!r} does not use"
        )


def unreached_parts(model, traced):
    """The parts with weights that no call of a trace reaches.

    Args:
        model: The model.
        traced: Its `Trace`.

    Returns:
        A list of `Unreached`.
    """
    holders = _holders(model, traced)
    if not holders:
        return []
    reached = {id(parent) for call in traced.calls for parent in call.parents}
    for call in traced.calls:
        inside = isinstance(call.operation, keras.layers.Layer)
        reached.update(map(id, _keras.all_layers(call.operation) if inside else ()))
    used = traced.weight_axes.taken
    found = []
    for holder, stays in holders:
        before = len(found)
        parts = list(_not_in(reached, holder))
        twins = [part for part in _keras.sub_layers(holder) if id(part) in reached]
        for part in parts:
            shapes = _weight_shapes(part)
            twin = next((each for each in twins if _weight_shapes(each) == shapes), None)
            found.append(Unreached(holder, part, stays, twin))
        if stays:
            found += [
                Unreached(holder, weight, stays)
                for weight, _ in _keras.own_variable_pairs(holder, holder)
                if id(weight) not in used and any(size > 1 for size in weight.shape)
            ]
        if len(found) > before and not _may_use_more(model, holder, traced):
            del found[before:]
    return found


def _may_use_more(model, holder, traced):
    """Whether training may use more of a holder than its call in the graph of a model does.

    Other methods may call a model. A layer in a graph has its call alone, and what that could do
    with arguments that it is not given, such as masks of what is left out, it never does.
    """
    call = traced.in_place.get(id(holder))
    if holder is model or isinstance(holder, keras.Model) or call is None:
        return True
    return trains_otherwise(holder, list(call.args), call.kwargs)


def _holders(model, traced):
    """Models and layers of users' classes that call parts by themselves, and whether they stay."""
    if _keras.functional(model) is None:
        found = {id(model): (model, id(model) in traced.in_place)}
    else:
        found = {id(model): (model, True)} if _keras.has_own_steps(model) else {}
    for call in traced.calls:
        stays = False
        for parent in call.parents:
            stays = stays or id(parent) in traced.in_place
            if stays and _keras.functional(parent) is None:
                found[id(parent)] = parent, True
    return list(found.values())


def _not_in(reached, holder):
    for part in _keras.sub_layers(holder):
        layers = _keras.all_layers(part)
        if reached.isdisjoint(map(id, layers)):
            if _keras.own_trainable_variables(part):  # others are constants, as of rotary tables
                yield part
        elif id(part) not in reached and _keras.functional(part) is None:
            yield from _not_in(reached, part)


def _weight_shapes(part):
    return [tuple(weight.shape) for weight in part.weights]


def pin_what_they_may_read(traced, tensor_labels, labels):
    """Pins the units of tensors that parts may read which no call reaches.

    A holder has the tensors between its own parts at hand, not those inside them. Of these, a part
    may read those of the shapes that it takes or makes; or any, if there are none.
    """
    frames = {}
    for each in traced.unreached:
        if not each.stays:
            continue
        shared = {id(weight) for weight in getattr(each.part, "weights", ())}
        for piece in labels.slices:
            if id(piece.variable) in shared:
                labels.pin(piece.labels, each.reason)
        if id(each.holder) not in frames:
            frames[id(each.holder)] = _between_parts(traced, each.holder)
        for tensor in _alike(each.part, frames[id(each.holder)]):
            labels.pin(tensor_labels[tensor], each.reason)


def _between_parts(traced, holder):
    """The tensors that go in and out of the parts of a model or layer, and of itself."""
    inside, users = {}, {}
    for call in traced.calls:
        for tensor in call.outputs:
            inside[tensor] = [_part_around(call, holder)]
    for call in traced.calls:
        for tensor in call.inputs:
            users.setdefault(tensor, []).append(_part_around(call, holder))
    given = {tensor for outputs in traced.siblings for tensor in outputs} | {*traced.outputs}
    found = []
    for tensor in [*traced.inputs, *(t for call in traced.calls for t in call.outputs)]:
        around = [*inside.get(tensor, [_OUTSIDE]), *users.get(tensor, ())]
        around += [_OUTSIDE] if tensor in given else []
        if any(part is not _OUTSIDE for part in around) and (
            holder in around or any(part is not around[0] for part in around)
        ):
            found.append(tensor)
    return found


_OUTSIDE = object()


def _part_around(call, holder):
    """The part of a holder in which a call is; the holder if in none, or `_OUTSIDE`."""
    parents = call.parents
    if _keras.functional(holder) is not None:  # the model, which is no parent
        parents = (holder, *parents)
    for place, parent in enumerate(parents):
        if parent is holder:
            return parents[place + 1] if place + 1 < len(parents) else holder
    return _OUTSIDE


def _alike(part, tensors):
    """The tensors of the shapes of a part; all if it takes none of these."""
    if isinstance(part, keras.Variable):
        sizes = {size for size in part.shape if size > 1}
        return [t for t in tensors if sizes.intersection(t.shape[1:])] or tensors
    given, made = _keras.built_shapes(part)
    taken = [tensor for tensor in tensors if any(_fits(tensor.shape, shape) for shape in given)]
    if not taken:
        return tensors
    return taken + [t for t in tensors if any(_fits(t.shape, shape) for shape in made)]


def _fits(shape, other):
    pairs = zip(shape[1:], other[1:], strict=False)
    return len(shape) == len(other) and all(a == b or None in (a, b) for a, b in pairs)
