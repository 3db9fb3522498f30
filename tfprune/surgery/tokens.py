"""Removes the embeddings of tokens, such as those that a corpus never uses."""

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_model, is_integer
from tfprune.coupling.model_trace import trace
from tfprune.masks.setting import masked_layers
from tfprune.rebuild import convert, copied_state
from tfprune.rebuild.config_numbers import ConfigNumbers, weights_in_order
from tfprune.rebuild.same_class import copy_training_state
from tfprune.stripping.check import TOLERANCE, Difference, lowest_precision
from tfprune.stripping.examples import caller, random_batches


def unused_tokens(vocabulary, corpus, keep=()):
    """Returns the ids of tokens that a corpus never uses, to be removed with `remove_tokens`.

    The id 0, with which most models pad, counts as used, and so do the special tokens of the
    tokenizer of a task of KerasHub.

    Args:
        vocabulary: The model whose embeddings are meant, or the size of its vocabulary.
        corpus: Ids of tokens: an array of integers, or an iterable of arrays or lists of these, as
            a `tf.data.Dataset`.
        keep: Further ids that count as used, as those of special tokens.

    Returns:
        An array of the ids, in ascending order.

    Raises:
        ValueError: If the corpus is empty, or holds something else than ids of the vocabulary.

    Example:

    >>> unused_tokens(6, [[1, 4], [4, 4, 2]])
    array([3, 5])
    """
    special = ()
    if is_integer(vocabulary):
        size = int(vocabulary)
    else:
        check_model(vocabulary, "vocabulary")
        size = _Tables(vocabulary).size
        tokenizer = getattr(getattr(vocabulary, "preprocessor", None), "tokenizer", None)
        special = getattr(tokenizer, "special_token_ids", None) or ()
    given = [_ids(each, size) for each in ([corpus] if hasattr(corpus, "ndim") else corpus)]
    if not sum(ids.size for ids in given):
        raise ValueError("Argument `corpus` must hold tokens. Received: none.")
    used = np.concatenate([*given, _ids([0, *special], size), _ids(list(keep), size)])
    return np.setdiff1d(np.arange(size), used)


def remove_tokens(model, tokens):
    """Returns a model without the embeddings of some tokens, and the new ids of the others.

    The rows of the embeddings go, and with them the logits of these tokens, where the class of the
    model makes as many as it has embeddings. The model is made by its own class, from its config
    with a smaller vocabulary; which number that is is found. In a Functional model of stock layers,
    embeddings that the inputs go into lose rows, and all else stays.

    For what is left of the vocabulary the new model computes what the model does, which is checked:
    its outputs for new ids are those of the model for the old ones, without the logits that go.

    Args:
        model: Any Keras model that is built and takes ids of tokens. It is not changed.
        tokens: The ids of the tokens that go, see `unused_tokens`.

    Returns:
        The new model, compiled as `model` is; and an array with the new id for each old one, -1
        for those that are gone: `new_ids[old_tokens]` is what the new model takes.

    Raises:
        ValueError: If the config cannot say it, the outputs are not the same, or the model has a
            preprocessor, whose tokenizer would still give the old ids.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None,), dtype="int32"),
    ...     keras.layers.Embedding(6, 4, name="words"),
    ...     keras.layers.GlobalAveragePooling1D()])
    >>> small, new_ids = remove_tokens(model, unused_tokens(model, [[1, 4, 2]]))
    >>> small.get_layer("words").input_dim, new_ids
    (4, array([ 0,  1,  2, -1,  3, -1]))
    """
    check_model(model)
    tables = _Tables(model)
    gone = _ids(list(tokens), tables.size)
    kept = np.setdiff1d(np.arange(tables.size), gone)
    _check(model, tables, gone, kept)
    try:
        small = _of_class(model, tables, kept)
    except ValueError as error:
        small = _of_stock_layers(model, tables, kept, error)
    _check_equal(model, small, tables, kept)
    new_ids = np.full(tables.size, -1)
    new_ids[kept] = np.arange(len(kept))
    return small, new_ids


class _Tables:
    """The embeddings that look up tokens among the inputs of a model.

    Attributes:
        layers: The layers, all of the same number of rows.
        size: That number.
        inputs: For each input of the model, whether it is looked up there.
    """

    def __init__(self, model):
        traced = trace(model, whole=True)
        read = [
            {id(u): u for u in traced.users_of(tensor) if isinstance(u, keras.layers.Embedding)}
            for tensor in traced.inputs
        ]
        found = {key: layer for each in read for key, layer in each.items()}
        if not found:
            raise ValueError(
                "The model has no `Embedding` that looks up one of its inputs. "
                f"Received: model={model.name!r} ({type(model).__name__})."
            )
        self.size = max(layer.input_dim for layer in found.values())
        self.layers = [each for each in found.values() if each.input_dim == self.size]
        tables = set(map(id, self.layers))
        self.inputs = [not tables.isdisjoint(each) for each in read]


def _ids(given, size):
    ids = np.asarray(given).reshape(-1)
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= size):
        raise ValueError(
            f"Ids of tokens must be integers from 0 to {size - 1}. "
            f"Received: {ids.dtype} from {ids.min()} to {ids.max()}."
        )
    return ids.astype(int)


def _check(model, tables, gone, kept):
    if not gone.size or not kept.size:
        raise ValueError(
            "Argument `tokens` must hold some of the ids of the vocabulary. Received: "
            f"{gone.size} of {tables.size}."
        )
    if 0 in gone and any(layer.mask_zero for layer in tables.layers):
        raise ValueError(
            "Argument `tokens` must not hold 0, because the embeddings mask it (`mask_zero`). "
            f"Received: model={model.name!r}."
        )
    if getattr(model, "preprocessor", None) is not None:
        raise ValueError(
            "The model has a preprocessor, whose tokenizer would give the old ids. "
            f"Received: model={model.name!r} ({type(model).__name__}). Set `model.preprocessor = "
            "None`, and pass it `new_ids[...]` of what the tokenizer gives."
        )


def _of_class(model, tables, kept):
    """The model made by its own class with a smaller vocabulary in its config."""
    numbers, weights = ConfigNumbers(model), weights_in_order(model)
    if masked_layers(model):
        numbers.refuse("it carries masks, which its class does not make")
    places = {id(weight): place for place, weight in enumerate(weights)}
    rows = {
        (places[id(weight)], 0)
        for layer in tables.layers
        for weight in layer.weights
        if weight.shape[0] == tables.size
    }
    changed = {
        place: len(kept)
        for place, number in numbers.before.items()
        if number == tables.size and not rows.isdisjoint(numbers.moved(place))
    }
    shapes = numbers.shapes(changed) if changed else None
    wanted = [shapes is not None and shapes[place][0] == len(kept) for place, _ in rows]
    if not all(wanted):
        numbers.refuse("no number in it is the number of rows of the embeddings alone")
    new = numbers.make(changed, {})
    pairs = list(zip(weights, weights_in_order(new), strict=True))

    if any(
        not _follows(ours.shape, theirs.shape, tables.size, len(kept)) for ours, theirs in pairs
    ):
        numbers.refuse("another size than that of the vocabulary goes along with it")
    copied_state.copy_weights(model, new, _rows(kept), _rows(kept), pairs)
    copy_training_state(model, new, pairs, _rows(kept))
    return new


def _follows(before, after, size, kept):
    """Whether a shape is as before, but for axes of the size of the vocabulary."""
    is_of_axes = len(before) == len(after)
    return is_of_axes and all(
        a == b or (a, b) == (size, kept) for a, b in zip(before, after, strict=True)
    )


def _rows(kept):
    """A function of a weight, its value and its counterpart; returns what that takes of it."""

    def taken(_, value, theirs, *__):
        for axis, size in enumerate(theirs.shape):
            if size != value.shape[axis]:
                value = np.take(value, kept, axis)
        return value

    return taken


def _of_stock_layers(model, tables, kept, error):
    """A Functional model whose embeddings have fewer rows; all else as it is."""
    own = {id(layer): layer for layer in tables.layers}
    if _keras.functional(model) is None:
        raise error
    new = convert.rebuilt(
        model,
        lambda config, operation: (
            {**config, "config": {**config["config"], "input_dim": len(kept)}}
            if id(operation) in own
            else config
        ),
    )

    tables = {id(layer) for layer in tables.layers}
    for ours, theirs in _keras.layer_pairs(model, new):
        if id(ours) in tables and theirs.input_dim != len(kept):
            raise error
    copied_state.copy_weights(model, new, _rows(kept), _rows(kept))
    copied_state.copy_compile_state(model, new, _rows(kept))
    return new


def _check_equal(model, small, tables, kept):
    """Raises a `ValueError` unless both compute the same for what is left of the vocabulary."""
    run, run_small = caller(model), caller(small)
    for arrays in random_batches(small):
        new = [
            a % len(kept) if is_id else a for a, is_id in zip(arrays, tables.inputs, strict=True)
        ]
        old = [
            kept[a.astype(int)].astype(a.dtype) if is_id else a
            for a, is_id in zip(new, tables.inputs, strict=True)
        ]
        for ours, theirs in zip(run(old), run_small(new), strict=True):
            difference, axes = Difference(), zip(ours.shape, theirs.shape, strict=True)
            for axis, sizes in enumerate(axes):
                if sizes == (tables.size, len(kept)) and axis:
                    ours = np.take(ours, kept, axis)
            difference.add(ours, theirs)
            if not difference.is_within(TOLERANCE[lowest_precision(model)]):
                raise ValueError(
                    "Without these tokens the model computes something else for the others, as "
                    "where it compares ids or takes a softmax over all. "
                    f"Received: model={model.name!r}, relative difference="
                    f"{difference.relative:.3g}. Nothing was changed."
                )
