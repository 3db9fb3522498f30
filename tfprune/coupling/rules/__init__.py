"""Rules: how each operation is analysed and resized, one rule for each operation class."""

from tfprune.coupling.rules import (  # noqa: F401 (each registers its rules)
    arithmetic,
    attention,
    channelwise,
    custom_tensors,
    dot_attention,
    einsum,
    embedding,
    fake_quantization,
    images,
    indexing,
    inferred,
    joins,
    linear,
    movement,
    normalization,
    products,
    recurrent,
    reductions,
    scaling,
    shape,
    time_steps,
    transforms,
    updates,
    wrappers,
)
from tfprune.coupling.rules.base import Flow, Rule, has_rule, label, rule, rule_of

__all__ = ["Flow", "Rule", "has_rule", "label", "rule", "rule_of"]
