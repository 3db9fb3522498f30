"""Layers and models as users write them, for the models that `random_user_models` draws.

Layers with weights of their own, with layers in lists and dicts, with and without a config, and
models with train steps of their own. `STYLES` has each layer in several styles of user code.
"""

from tests.user_code.activations import (
    squared_relu,
    swish,
)
from tests.user_code.composites import (
    Chain,
    Conditioned,
    ConvBlock,
    Cross,
    DropBlock,
    GraphInside,
    KeepsMask,
    MaskedMean,
    Mlp,
    OneStep,
    Parts,
    SplitHeads,
    Squeeze,
    TiedHead,
    Transformer,
    TwoOutputs,
    ValueAndGate,
    local,
)
from tests.user_code.custom_weights import (
    Affine,
    Cell,
    ClassToken,
    Context,
    Filters,
    FirstPositions,
    Fused,
    Gated,
    HandDense,
    Heads,
    LowRank,
    Norm,
    Normalised,
    Picked,
    Position,
    Queries,
    Scale,
    Table,
    TakenPositions,
    Tied,
)
from tests.user_code.models import (
    Distiller,
    Net,
    NetOfDicts,
    NetTrains,
    NetWithLoss,
    Trains,
    Vae,
    train_step,
)
from tests.user_code.styles import (
    OF_NUMBERS,
    STYLES,
)
