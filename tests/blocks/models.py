"""Models with residual blocks: of stock layers, of a user's layers, subclassed."""

import keras

from tests.kerashub_models import randomise

DIM = 6


@keras.saving.register_keras_serializable("blocks_tests")
class OwnBlock(keras.layers.Layer):
    """A pre-norm transformer block as users write it."""

    def __init__(self, dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads = dim, heads
        self.first = keras.layers.LayerNormalization(name="first")
        self.attention = keras.layers.MultiHeadAttention(heads, dim // heads, name="attention")
        self.second = keras.layers.LayerNormalization(name="second")
        self.wide = keras.layers.Dense(2 * dim, activation="gelu", name="wide")
        self.narrow = keras.layers.Dense(dim, name="narrow")

    def build(self, shape):
        self.first.build(shape)
        self.attention.build(shape, shape)
        self.second.build(shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 2 * self.dim))

    def call(self, inputs):
        normed = self.first(inputs)
        inputs = inputs + self.attention(normed, normed)
        return inputs + self.narrow(self.wide(self.second(inputs)))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads}


@keras.saving.register_keras_serializable("blocks_tests")
class Stack(keras.layers.Layer):
    """A layer that calls blocks one after the other."""

    def __init__(self, depth, dim=DIM, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.dim, self.heads = depth, dim, heads
        self.blocks = [OwnBlock(dim, heads, name=f"own_{place}") for place in range(depth)]

    def build(self, shape):
        for block in self.blocks:
            block.build(shape)

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return inputs

    def get_config(self):
        sizes = {"depth": self.depth, "dim": self.dim, "heads": self.heads}
        return {**super().get_config(), **sizes}


@keras.saving.register_keras_serializable("blocks_tests")
class OwnModel(keras.Model):
    """A subclassed model with a stack of blocks."""

    def __init__(self, depth=3, dim=DIM, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.dim, self.heads = depth, dim, heads
        self.tokens = keras.layers.Embedding(11, dim, name="tokens")
        self.blocks = [OwnBlock(dim, heads, name=f"own_{place}") for place in range(depth)]
        self.logits = keras.layers.Dense(3, name="logits")

    def call(self, inputs):
        x = self.tokens(inputs)
        for block in self.blocks:
            x = block(x)
        return self.logits(x)

    def get_config(self):
        sizes = {"depth": self.depth, "dim": self.dim, "heads": self.heads}
        return {**super().get_config(), **sizes}


def subclassed(depth=3):
    model = OwnModel(depth, name="own_model")
    model(keras.KerasTensor((None, 5), "int32"))
    return randomise(model)


def with_stack(depth=3):
    inputs = keras.Input((5, DIM))
    x = Stack(depth, name="stack")(inputs)
    return randomise(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)))


def stock_transformer(depth=3):
    """Blocks of two residual additions each, of stock layers in the graph."""
    inputs = keras.Input((5, DIM))
    x = inputs + keras.layers.Dense(DIM, name="places")(inputs)  # it does not repeat
    for place in range(depth):
        y = keras.layers.LayerNormalization(name=f"norm_{place}")(x)
        x = x + keras.layers.MultiHeadAttention(2, 3, name=f"attention_{place}")(y, y)
        y = keras.layers.Dense(9, "relu", name=f"wide_{place}")(x)
        x = keras.layers.Add(name=f"sum_{place}")(
            [x, keras.layers.Dense(DIM, name=f"narrow_{place}")(y)]
        )
    x = keras.layers.LayerNormalization(name="last")(x)
    return randomise(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)))


def resnet(blocks=(3, 2)):
    """A small ResNet: the first block of each stage changes the shape."""
    x = inputs = keras.Input((8, 8, 3))
    for stage, number in enumerate(blocks):
        for place in range(number):
            name, given, filters = f"{stage}_{place}", x, 4 * (stage + 1)
            options = {"padding": "same", "use_bias": False}
            strides = 2 if stage and not place else 1
            x = keras.layers.Conv2D(filters, 3, strides, name=f"a{name}", **options)(x)
            x = keras.layers.BatchNormalization(name=f"bn{name}")(x)
            x = keras.layers.ReLU(name=f"relu{name}")(x)
            x = keras.layers.Conv2D(filters, 3, name=f"b{name}", **options)(x)
            if not place:
                given = keras.layers.Conv2D(filters, 1, strides, name=f"c{name}", **options)(given)
            x = keras.layers.Add(name=f"add{name}")([given, x])
            x = keras.layers.ReLU(name=f"out{name}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return randomise(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)))
