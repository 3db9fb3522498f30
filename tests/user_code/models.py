"""Models of users' classes, with train steps and losses of their own."""

import keras
import tensorflow as tf

layers, ops = keras.layers, keras.ops


def train_step(self, data):
    """A train step of a user's own."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        loss = ops.mean(ops.square(y - self(x, training=True)))
    variables = self.trainable_variables
    self.optimizer.apply(tape.gradient(loss, variables), variables)
    return {"loss": loss}


class Trains(keras.Model):
    """A Functional model with a train step of its own."""

    train_step = train_step


class Distiller(keras.Model):
    """A student that learns from a teacher, each a model of its own."""

    def __init__(self, student, teacher, **kwargs):
        super().__init__(**kwargs)
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False

    def call(self, inputs, training=False):
        return self.student(inputs, training=training)

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        taught = self.teacher(x)
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(taught - self(x, training=True)))
        variables = self.student.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Vae(keras.Model):
    """An encoder, a sample while it trains, and a decoder; with a loss that it adds."""

    def __init__(self, encoder, latent=3, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.means, self.spreads = layers.Dense(latent), layers.Dense(latent)
        self.decoder = [layers.Dense(8, activation="relu"), layers.Dense(2)]
        self.seed_generator = keras.random.SeedGenerator(5)

    def call(self, inputs, training=False):
        x = self.encoder(inputs)
        x, spread = self.means(x), self.spreads(x)
        if training:
            self.add_loss(ops.mean(ops.exp(spread) - spread + ops.square(x)))
            noise = keras.random.normal(ops.shape(x), seed=self.seed_generator)
            x = x + ops.exp(0.5 * spread) * noise
        for step in self.decoder:
            x = step(x)
        return x


class Net(keras.Model):
    """Calls the layers that it is given, in a list."""

    def __init__(self, steps, residual=False, **kwargs):
        super().__init__(**kwargs)
        self.steps, self.residual = list(steps), residual

    def call(self, inputs, training=False):
        x = inputs
        for step in self.steps:
            before, x = x, step(x)
            fits = before.shape[1:] == x.shape[1:] and before.dtype == x.dtype
            if self.residual and fits and len(x.shape) > 1:
                x = before + x
        return x


class NetTrains(Net):
    """Has a train step of its own."""

    train_step = train_step


class NetWithLoss(Net):
    """Computes its loss itself, and keeps a metric of it; it has a weight and a temperature."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.Mean(name="distance")
        self.first, *self.others = self.steps

    def build(self, shape):
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature")

    def call(self, inputs, training=False):
        x = self.first(inputs)
        for step in self.others:
            x = step(x)
        return x / (1.0 + ops.square(self.temperature))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        loss = ops.mean(ops.abs(y - y_pred))
        self.tracker.update_state(loss)
        return loss

    @property
    def metrics(self):
        return [self.tracker]


class NetOfDicts(Net):
    """Takes a dict and gives one."""

    def call(self, inputs, training=False):
        first = super().call(inputs["given"], training=training)
        return {"first": first, "double": 2.0 * first}
