"""Removes whole residual blocks from a model: depth."""

import math
from dataclasses import dataclass

import numpy as np

from tfprune._tools.checks import check_model, is_integer, is_number
from tfprune._tools.tables import Change, Printable, count, number, table
from tfprune.blocks.budget_search import within_budget
from tfprune.blocks.find import find_blocks
from tfprune.blocks.same_class import of_same_class
from tfprune.blocks.scores import check_criterion, scores_of
from tfprune.coupling.costs import total_macs
from tfprune.masks import layer_filter
from tfprune.rebuild.bypassed import bypassed
from tfprune.units import budgets
from tfprune.units.accuracy import check_says_how_much


@dataclass(frozen=True)
class ScoredBlock:
    """A residual block in a `BlocksReport`.

    Attributes:
        name: The name of its layer, or of the last operation in it, with those of the nested models
            around it.
        layers: The names of the layers with weights in it.
        score: Its score; blocks with low scores go first.
        removed: Whether it is removed.
    """

    name: str
    layers: tuple
    score: float
    removed: bool


@dataclass(frozen=True)
class BlocksReport(Printable):
    """The report of `prune_blocks`; prints as tables.

    Attributes:
        target: The target, in words.
        blocks: A `ScoredBlock` for each block that could go, in the order in which they run.
        depth, parameters, macs: Before and after, each a `Change`; `depth` counts the blocks that
            could go, MACs are None where they are not known.
        stays: For each block that cannot go a sentence that says why.
        why_not_same_class: Why the result is not made by the model's own class, or None.
    """

    target: str
    blocks: tuple
    depth: Change
    parameters: Change
    macs: Change
    stays: tuple = ()
    why_not_same_class: str | None = None

    def tables(self):
        """The rich tables that are printed: the blocks, the model."""
        blocks = table(("block",), ("score", "removed"), notes=self.stays)
        for each in self.blocks:
            blocks.add_row(each.name, number(each.score), "yes" if each.removed else "")
        total = table(("total",), ("before", "after", "ratio"))
        changes = {"blocks": self.depth, "parameters": self.parameters, "MACs": self.macs}
        for name, change in changes.items():
            ratio = "" if change.ratio is None else f"{change.ratio:.3g}"
            total.add_row(name, count(change.before), count(change.after), ratio)
        return [self.target, "", blocks, "", total]


def prune_blocks(
    model,
    target,
    criterion="block_influence",
    *,
    data=None,
    only=None,
    exclude=None,
    same_class=None,
    return_report=False,
    verbose=0,
):
    """Returns a model without its least important residual blocks: fewer layers of the same width.

    A block is what repeats along a residual stream: a decoder or encoder layer, a block of a ViT, a
    block of a ResNet with an identity shortcut, a block of your own class, called in a stack in a
    Functional or a subclassed model. It takes and gives tensors of one shape, so what it takes can
    go on in place of what it gives. That is what the model without it computes; nothing is
    approximated or fitted. The first blocks of the stages of a ResNet, which change the
    shape, stay.

    Fine-tune or distill the result (`tfprune.distill`). `tfprune.prune` decides on depth and width
    under one budget, with `selection=tfprune.Selection("global", blocks=True)`. If it is called on
    the result instead, fractions count from the model given to each call: with `MACs(0.8)` here
    and `MACs(0.75)` there, 0.6 of the MACs remain.

    Args:
        model: Any Keras model that is built. It is not changed.
        target: An integer, how many blocks are removed; a float in (0, 1), which share of the
            blocks; or a budget of `tfprune.budgets`: `Parameters(0.7)`, `MACs(0.7)`,
            `Latency(fraction=0.7)`, met with as few blocks removed as possible in the order of the
            scores.
        criterion: Which blocks go first: "block_influence", those that change least what they
            take: 1 - the mean cosine of the vectors (along the last axis) that go in and come out;
            "loss", those without which the loss is lowest; or a function that takes the model
            without one of the blocks and returns a float, low where that block is missed least.
        data: What the criterion is measured on: `(x,)`, `(x, y)` or a dataset of such batches;
            "loss" needs labels and a model that is compiled.
        only, exclude: Layers, names or predicates: blocks go only if a layer in them is among
            `only`, and stay if one is among `exclude`.
        same_class: Whether the result is made by the model's own class, from its config with a
            smaller number of layers, so that its config, caches and presets say its depth: a
            `CausalLM` of KerasHub stays one that generates. By default it is where the class can
            make it and it computes the same; with `True`, anything else is refused.
        return_report: Whether to return a `BlocksReport` as well, with the scores.
        verbose: 0 is quiet, 1 shows progress.

    Returns:
        The model without these blocks, compiled as `model` is, with masks if it has any. It is one
        of the model's class (see `same_class`), or else a Functional (or Sequential) model, in
        which layers that hold several blocks are inlined.

    Raises:
        ValueError: If there are no blocks that can go or too few of them, data is missing, the
            budget cannot be met, or a model of the same class is asked for and cannot be made.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> x = inputs = keras.Input((4,))
    >>> for number in range(3):
    ...     y = keras.layers.Dense(8, activation="relu", name=f"wide_{number}")(x)
    ...     x = keras.layers.Add()([x, keras.layers.Dense(4, name=f"narrow_{number}")(y)])
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    >>> small = prune_blocks(model, 2, data=(np.random.default_rng(0).normal(size=(64, 4)),))
    >>> len(small.layers) - len(model.layers)
    -6

    Reference:
        Men et al. 2024, ShortGPT: Layers in large language models are more redundant than you
        expect. https://arxiv.org/abs/2403.03853
    """
    check_model(model)
    layer_filter.check(only, exclude, "layer -> bool")
    check_criterion(criterion, model, data)
    _check_target(target)
    found = find_blocks(model, only, exclude)
    most = _number_to_remove(target, found)
    scores = scores_of(found, criterion, data, verbose)
    order = [found.blocks[place] for place in np.argsort(scores, kind="stable")]
    if most is None:
        small, removed = within_budget(model, found, order, target)
    else:
        removed = order[:most]
        small = bypassed(found.model, removed)
    why_not = None
    if same_class is not False and removed:
        small, why_not = of_same_class(model, found, removed, small, same_class)
    if not return_report:
        return small
    gone = set(map(id, removed))
    report = BlocksReport(
        target=_in_words(target),
        blocks=tuple(
            ScoredBlock(
                name=block.name,
                layers=tuple(layer.name for layer in block.layers if layer.weights),
                score=float(score),
                removed=id(block) in gone,
            )
            for block, score in zip(found.blocks, scores, strict=True)
        ),
        depth=Change(len(found.blocks), len(found.blocks) - len(removed)),
        parameters=Change(model.count_params(), small.count_params()),
        macs=Change(*(_macs(each, target) for each in (model, small))),
        stays=found.stays,
        why_not_same_class=why_not,
    )
    return small, report


def _check_target(target):
    check_says_how_much(target)
    counted = (budgets.Parameters, budgets.MACs, budgets.Bytes, budgets.Latency)
    is_share = is_number(target) and not is_integer(target) and 0 < target < 1
    if not isinstance(target, counted) and not is_share and not (is_integer(target) and target > 0):
        raise ValueError(
            "Argument `target` must be a positive integer, how many blocks are removed, a float in "
            "(0, 1), which share of them, or a budget: `Parameters`, `MACs`, `Bytes` or `Latency`. "
            f"Received: target={target!r}."
        )


def _number_to_remove(target, found):
    """How many blocks are removed; None for a budget."""
    if isinstance(target, budgets.Budget):
        return None
    there = len(found.blocks)
    wanted = target if is_integer(target) else math.floor(target * there + 0.5)
    if not 0 < wanted <= there:
        raise ValueError(
            f"Argument `target` must remove from 1 to {there} blocks, as many as can go. "
            f"Received: target={target!r}, blocks {[block.name for block in found.blocks]}."
        )
    return int(wanted)


def _in_words(target):
    if isinstance(target, budgets.Budget):
        return str(target)
    return (
        f"{target} blocks removed" if is_integer(target) else f"{100 * target:.4g} % of the blocks"
    )


def _macs(model, target):
    return total_macs(model, getattr(target, "input_shapes", None))
