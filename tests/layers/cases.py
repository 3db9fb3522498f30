"""Every drop-in layer in every variant worth trying."""

from dataclasses import dataclass, field

import keras
import numpy as np


@dataclass(frozen=True)
class Case:
    layer: str
    args: tuple
    shapes: tuple
    options: dict = field(default_factory=dict)
    integers: int = 0
    wrap: object = None

    @property
    def id(self):
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        wrapper = "-wrapped" if self.wrap else ""
        return f"{self.layer}{wrapper}-{options}".replace(" ", "").rstrip("-")

    def make(self, layers, **more):
        """The layer, with the same initial weights each time."""
        keras.utils.set_random_seed(7)
        layer = getattr(layers, self.layer)(*self.args, **self.options, **more)
        return self.wrap(layer) if self.wrap else layer

    def inputs(self, batch=2):
        rng = np.random.default_rng(3)
        if self.integers:
            found = [rng.integers(0, self.integers, (batch, *shape)) for shape in self.shapes]
        else:
            found = [rng.normal(size=(batch, *shape)).astype("float32") for shape in self.shapes]
        return found

    def call(self, layer, inputs, **kwargs):
        """Calls the layer as its users do."""
        if self.layer in ("Attention", "AdditiveAttention"):
            return layer(inputs, **kwargs)
        if self.layer.endswith("Cell") and not self.wrap:
            return layer(inputs[0], inputs[1:], **kwargs)[0]
        return layer(*inputs, **kwargs)


def _case(layer, *args, shape=None, shapes=None, integers=0, wrap=None, **options):
    return Case(layer, args, tuple(shapes or [shape]), options, integers, wrap)


def _bidirectional(layer):
    return keras.layers.Bidirectional(layer)


def _time_distributed(layer):
    return keras.layers.TimeDistributed(layer)


def _rnn(cell):
    return keras.layers.RNN(cell)


def _stacked_rnn(cell):
    return keras.layers.RNN(keras.layers.StackedRNNCells([cell, type(cell)(2)]))


CASES = [
    _case("Dense", 3, shape=(4,)),
    _case("Dense", 3, shape=(5, 4), use_bias=False, activation="relu"),
    _case("Dense", 3, shape=(4,), kernel_regularizer="l2", bias_initializer="ones"),
    _case("Dense", 3, shape=(4,), dtype="mixed_float16"),
    _case("Dense", 3, shape=(4,), dtype="float64"),
    _case("Dense", 3, shape=(5, 4), wrap=_time_distributed),
    _case("EinsumDense", "abc,cd->abd", shape=(5, 4), output_shape=(None, 3), bias_axes="d"),
    _case("EinsumDense", "abc,cde->abde", shape=(5, 4), output_shape=(None, 2, 3)),
    _case("Embedding", 7, 3, shape=(4,), integers=7),
    _case("Embedding", 7, 3, shape=(4,), integers=7, mask_zero=True, dtype="mixed_float16"),
    _case("ReversibleEmbedding", 7, 3, shape=(4,), integers=7),
    _case("ReversibleEmbedding", 7, 3, shape=(4,), integers=7, tie_weights=False),
    _case("Conv1D", 4, 3, shape=(6, 2)),
    _case("Conv1D", 4, 3, shape=(6, 2), padding="causal", dilation_rate=2, use_bias=False),
    _case("Conv2D", 4, 3, shape=(6, 6, 2)),
    _case("Conv2D", 4, 3, shape=(6, 6, 4), strides=2, padding="same", groups=2),
    _case("Conv2D", 4, 3, shape=(6, 6, 2), dtype="mixed_float16"),
    _case("Conv3D", 2, 2, shape=(4, 4, 4, 2)),
    _case("Conv1DTranspose", 4, 3, shape=(6, 2), strides=2),
    _case("Conv2DTranspose", 4, 3, shape=(4, 4, 2), padding="same"),
    _case("Conv3DTranspose", 2, 2, shape=(3, 3, 3, 2)),
    _case("DepthwiseConv1D", 3, shape=(6, 2), depth_multiplier=2),
    _case("DepthwiseConv2D", 3, shape=(6, 6, 2)),
    _case("DepthwiseConv2D", 3, shape=(6, 6, 2), use_bias=False, padding="same"),
    _case("SeparableConv1D", 4, 3, shape=(6, 2)),
    _case("SeparableConv2D", 4, 3, shape=(6, 6, 2), depth_multiplier=2),
    _case("BatchNormalization", shape=(4,)),
    _case("BatchNormalization", shape=(5, 4, 3), axis=1),
    _case("BatchNormalization", shape=(4,), scale=False, center=False),
    _case("BatchNormalization", shape=(4, 3), scale=False),
    _case("LayerNormalization", shape=(4,)),
    _case("LayerNormalization", shape=(5, 4, 3), axis=(1, 3)),
    _case("LayerNormalization", shape=(5, 4, 3), axis=(2, -1)),
    _case("LayerNormalization", shape=(5, 4), scale=False),
    _case("LayerNormalization", shape=(5, 4), center=False),
    _case("LayerNormalization", shape=(5, 4), scale=False, center=False),
    _case("LayerNormalization", shape=(5, 4), rms_scaling=True),
    _case("LayerNormalization", shape=(4,), dtype="mixed_float16"),
    _case("LayerNormalization", shape=(4,), dtype="float64"),
    _case("RMSNormalization", shape=(4,)),
    _case("RMSNormalization", shape=(5, 4, 3), axis=(2, 3)),
    _case("RMSNormalization", shape=(5, 4), dtype="mixed_float16"),
    _case("GroupNormalization", shape=(5, 6), groups=3),
    _case("GroupNormalization", shape=(5, 5, 6), groups=-1),
    _case("GroupNormalization", shape=(6, 5, 5), groups=2, axis=1),
    _case("GroupNormalization", shape=(5, 6, 5), groups=1, axis=2),
    _case("GroupNormalization", shape=(6,), groups=2),
    _case("GroupNormalization", shape=(5, 6), groups=3, scale=False),
    _case("GroupNormalization", shape=(5, 6), groups=3, center=False),
    _case("GroupNormalization", shape=(5, 6), groups=3, scale=False, center=False),
    _case("GroupNormalization", shape=(5, 6), groups=3, dtype="mixed_float16"),
    _case("GroupNormalization", shape=(5, 6), groups=3, dtype="float64"),
    _case("PReLU", shape=(4,)),
    _case("PReLU", shape=(5, 5, 4), shared_axes=[1, 2], alpha_initializer="ones"),
    _case("SimpleRNN", 3, shape=(4, 2)),
    _case("SimpleRNN", 3, shape=(4, 2), return_sequences=True, unroll=True, use_bias=False),
    _case("LSTM", 3, shape=(4, 2)),
    _case("LSTM", 3, shape=(4, 2), return_sequences=True, go_backwards=True),
    _case("LSTM", 3, shape=(4, 2), dtype="mixed_float16"),
    _case("LSTM", 3, shape=(4, 2), dropout=0.3, recurrent_dropout=0.2, seed=1),
    _case("LSTM", 3, shape=(4, 2), wrap=_bidirectional),
    _case("GRU", 3, shape=(4, 2)),
    _case("GRU", 3, shape=(4, 2), reset_after=False),
    _case("GRU", 3, shape=(4, 2), wrap=_bidirectional),
    _case("SimpleRNNCell", 3, shapes=[(2,), (3,)]),
    _case("LSTMCell", 3, shapes=[(2,), (3,), (3,)]),
    _case("GRUCell", 3, shapes=[(2,), (3,)]),
    _case("GRUCell", 3, shape=(4, 2), wrap=_rnn, reset_after=False),
    _case("LSTMCell", 3, shape=(4, 2), wrap=_stacked_rnn),
    _case("ConvLSTM1D", 2, 3, shape=(3, 5, 2)),
    _case("ConvLSTM2D", 2, 3, shape=(3, 5, 5, 2), use_bias=False),
    _case("ConvLSTM3D", 2, 2, shape=(2, 3, 3, 3, 2)),
    _case("MultiHeadAttention", 2, 3, shapes=[(5, 4), (5, 4)]),
    _case("MultiHeadAttention", 2, 3, shapes=[(5, 4), (6, 4)], value_dim=2, use_bias=False),
    _case("MultiHeadAttention", 2, 3, shapes=[(5, 4), (5, 4)], dropout=0.3, seed=1),
    _case("MultiHeadAttention", 2, 3, shapes=[(5, 4), (5, 4)], dtype="mixed_float16"),
    _case("GroupQueryAttention", 3, 4, 2, shapes=[(5, 4), (5, 4)]),
    _case("GroupQueryAttention", 3, 4, 2, shapes=[(5, 4), (6, 4)], use_gate=True),
    _case("Attention", shapes=[(5, 4), (5, 4)], use_scale=True),
    _case("Attention", shapes=[(5, 4), (5, 4)]),
    _case("Attention", shapes=[(5, 4), (5, 4)], use_scale=True, score_mode="concat"),
    _case("AdditiveAttention", shapes=[(5, 4), (5, 4)]),
    _case("AdditiveAttention", shapes=[(5, 4), (5, 4)], use_scale=False),
]


def masked_parts(layer):
    """The layers that carry masks in a layer, wrappers and cells looked into."""
    from tfprune.masks.setting import masked_layers

    return masked_layers(layer)


def prune_some(layer, model=None):
    """Prunes about a third and freezes another third of every masked weight, by position.

    Returns (weight, pruned, frozen, value) for each.
    """
    import tfprune

    marks = []
    for part in masked_parts(layer):
        for name, weight in part.masked_weights.items():
            position = np.arange(int(np.prod(weight.shape))).reshape(tuple(weight.shape))
            pruned, frozen = position % 3 == 1, position % 3 == 2
            tfprune.set_masks(model or layer, part, name, trainable=~pruned, frozen=frozen)
            marks.append((weight, pruned, frozen, np.asarray(weight).copy()))
    return marks
