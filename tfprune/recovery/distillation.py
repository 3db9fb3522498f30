"""Knowledge distillation from the dense model into a pruned one."""

import contextlib
import functools

import keras

from tfprune import _keras
from tfprune._tools.checks import check_integer, check_model
from tfprune._tools.finite import check_finite_data, check_finite_weights
from tfprune.coupling.model_trace import trace
from tfprune.measuring.data import check_ends, check_fits, fit_arguments, labels_given, running
from tfprune.measuring.replicas import replicas_of
from tfprune.rebuild import copied_state
from tfprune.recovery.copy_model import copy_model
from tfprune.recovery.students import ForStudent, StopsWithStudent
from tfprune.recovery.unlabelled import check_unlabelled, train_towards


def distill(
    model, dense, data, *, epochs=1, losses=None, label_weight=0.5, callbacks=None, **kwargs
):
    """Returns a copy of a pruned model, trained on labels and on the dense model's outputs.

    Fine-tunes after pruning with Keras's `Distiller`, the dense model being the teacher:

        loss = label_weight * (the model's own loss) + (1 - label_weight) * (distillation losses)

    The model's own loss is that of `compile`, with loss weights, sample weights and penalties of
    regularizers. Masks stay as they are: pruned elements stay 0 and frozen ones keep their values.

    Without labels the outputs of the dense model are all that is trained on, and any number of them
    will do: the Kullback-Leibler divergence of those that a softmax or a sigmoid makes, the squared
    difference of others, relative to the variance of the dense model's, and penalties.

    Args:
        model: Any Keras model, masked or stripped. It is not touched. With labels it must be
            compiled and have one output; without them, one that is not compiled is trained by Adam,
            at a rate that falls from 0.001 to 0. Its own `train_step` is not used.
        dense: The teacher, with the same inputs and outputs. It is not touched.
        data: `(x, y)` or `(x, y, sample_weight)`, or a dataset of such batches, as `fit` takes it;
            `(x,)`, or a dataset of inputs, for training without labels.
        epochs: Integer, the number of passes over the data.
        losses: With labels, a `keras.distillation` loss, or a list. By default, for a model that is
            compiled with a categorical crossentropy, the Kullback-Leibler divergence of the outputs
            at temperature 3 (`LogitsDistillation(loss=keras.losses.KLDivergence())`), from logits
            or, by their logarithms, from probabilities; for any other loss the squared difference
            of the outputs (`FeatureDistillation("mse")`).
        label_weight: Float from 0 to 1, the weight of the model's own loss.
        callbacks: Callbacks, which get the trained model, not the distiller: those of
            `tfprune.callbacks` prune it, a checkpoint saves it.
        **kwargs: Further arguments of `fit`: `batch_size`, `validation_data`, `verbose`...

    Returns:
        A new model, trained and compiled as `model` is, with the optimizer's state after training.
        Its `history` is what `fit` returns: with `student_loss`, `distillation_loss` and
        `total_loss`; without labels, with `loss`.

    Raises:
        ValueError: If there are labels and the model is not compiled with a loss, there are none
            and `losses` are given, or the models do not fit together.
        ImportError: If Keras has no `keras.distillation`, as before 3.12.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> dense = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    >>> dense.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> masked = tfprune.prunable(dense)
    >>> counts = tfprune.prune_units(masked, 0.5)
    >>> trained = distill(masked, dense, (np.ones((8, 4)), np.zeros(8)), epochs=2, verbose=0)
    >>> len(trained.history.history["distillation_loss"])
    2
    >>> tfprune.strip(trained).layers[0].units
    4

    Reference:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network",
        https://arxiv.org/abs/1503.02531; https://keras.io/api/distillation/.
    """
    check_model(model)
    check_model(dense, "dense")
    check_integer("epochs", epochs, least=0)
    replicas = replicas_of(model)
    replicas.check_can_fit()
    if kwargs.get("steps_per_epoch") is None:
        check_ends(data)
    if not labels_given(data):
        return _without_labels(
            model, dense, data, losses, epochs=epochs, callbacks=callbacks, **kwargs
        )
    distiller_class = _distiller_class()
    _check(model)
    check_fits(model, data)
    _check_losses(losses, replicas)
    check_finite_data("data", data)
    check_finite_weights(dense)
    student = copy_model(model)
    with _trainable_as_before(dense):
        with student.distribute_strategy.scope():
            distiller = distiller_class(
                teacher=dense,
                student=student,
                distillation_losses=_default_losses(student) if losses is None else losses,
                student_loss_weight=label_weight,
            )
            distiller.compile(**_compile_arguments(student))
        passed = [ForStudent(c, student) for c in keras.tree.flatten(callbacks) if c is not None]
        with running(model):
            history = distiller.fit(
                **fit_arguments(data), epochs=epochs, callbacks=passed, **kwargs
            )
    check_finite_weights(student, " after training")
    student.history = history
    return student


def _without_labels(model, dense, data, losses, *, callbacks, **kwargs):
    if losses is not None:
        raise ValueError(
            "Argument `losses` is for training with labels, by Keras's `Distiller`. Received: "
            f"losses={losses!r}, data without labels. Leave it out, or pass labels."
        )
    check_unlabelled(data, kwargs)
    check_fits(model, data)
    check_finite_data("data", data)
    check_finite_weights(dense)
    student = copy_model(model)
    passed = [ForStudent(c, student) for c in keras.tree.flatten(callbacks) if c is not None]
    history = train_towards(student, dense, data, callbacks=passed, **kwargs)
    check_finite_weights(student, " after training")
    student.history = history
    return student


def _check(model):
    if not model.compiled or _keras.compile_arguments(model).get("loss") is None:
        raise ValueError(
            "Argument `model` must be compiled with a loss, an optimizer and what metrics are "
            f"wanted: it is trained as it is compiled. Received: model={model.name!r}."
        )
    outputs = trace(model).outputs
    if len(outputs) != 1:
        raise ValueError(
            "Argument `model` must have one output. For several, put losses together with "
            "`keras.distillation.Distiller`, which takes masked models too. "
            f"Received: model={model.name!r} with {len(outputs)} outputs."
        )


def _check_losses(losses, replicas):
    """Refuses a loss that takes logits for probabilities, or that replicas would multiply.

    The default "kl_divergence" of `LogitsDistillation` does in Keras 3.15: only an instance of
    `KLDivergence` makes it apply softmax. Softmax does not see a constant added to all logits.
    """
    logits = keras.ops.convert_to_tensor([[0.0, 1.0, 2.0]])
    for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
        is_logits = isinstance(loss, keras.distillation.LogitsDistillation)
        parts = keras.tree.flatten(getattr(loss, "loss", None))
        functions = [p for p in parts if p is not None and not isinstance(p, keras.losses.Loss)]
        if functions and replicas.count > 1:
            raise ValueError(
                "Under a strategy the losses in `losses` must be instances of `keras.losses.Loss`, "
                "as `keras.losses.MeanSquaredError()`, since Keras adds up the others over "
                f"replicas. Received: {type(loss).__name__} with {functions[0]!r}."
            )
        is_plain = is_logits and loss.loss is keras.losses.kl_divergence
        if is_plain and abs(float(loss.compute_loss(logits, logits + 10.0))) > 1e-3:
            raise ValueError(
                "This version of Keras applies no softmax in `LogitsDistillation` with "
                "loss='kl_divergence', its default, so the divergence is one of clipped logits. "
                f"Received: losses={losses!r}, Keras {keras.__version__}. Pass "
                "`keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence())`."
            )


@functools.cache
def _distiller_class():
    """Keras's `Distiller`, whose student has its own loss with all that belongs to it."""
    if not hasattr(keras, "distillation"):
        raise ImportError(
            "`distill` needs `keras.distillation`, which came with Keras 3.12. Received: Keras "
            f"{keras.__version__}. Upgrade Keras, or train with `fit` and a loss of your own."
        )

    class Distiller(StopsWithStudent, keras.distillation.Distiller):
        """The same, with sample weights, penalties of regularisers, and early stopping."""

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            """Both losses; the student's is that of its `compile`."""
            own = self._student_loss
            own.x, own.sample_weight = x, sample_weight
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    return Distiller


class _OwnLoss:
    """The loss of a compiled model, as a function of labels and predictions."""

    def __init__(self, model):
        self._compute = model.compute_loss
        self.x = self.sample_weight = None

    def __call__(self, y, y_pred):
        return self._compute(self.x, y, y_pred, self.sample_weight)


def _compile_arguments(student):
    arguments = _keras.compile_arguments(student)
    metrics = {
        key: [copied_state.copied_metric(m) for m in keras.tree.flatten(arguments.get(key))]
        for key in ("metrics", "weighted_metrics")
        if arguments.get(key) is not None
    }
    kept = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")
    options = {name: arguments[name] for name in kept if name in arguments}
    return {"optimizer": student.optimizer, "loss": _OwnLoss(student), **metrics, **options}


def _default_losses(student):
    """The distillation loss for the model's own loss."""
    loss = _keras.compile_arguments(student)["loss"]
    loss = keras.tree.flatten(loss)[0]
    loss = keras.losses.get(loss)
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if "categorical_crossentropy" not in name:
        return keras.distillation.FeatureDistillation(keras.losses.MeanSquaredError())
    is_instance = isinstance(loss, keras.losses.Loss)
    if is_instance and loss.get_config().get("from_logits"):
        return keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence())
    return _probabilities_distillation()


def _probabilities_distillation():
    class ProbabilitiesDistillation(keras.distillation.LogitsDistillation):
        """Of probabilities: their logarithms are logits, but for a constant softmax ignores."""

        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            """The loss of the logarithms."""
            smallest = keras.backend.epsilon()
            logits = [
                keras.ops.log(keras.ops.maximum(p, smallest))
                for p in (teacher_outputs, student_outputs)
            ]
            return super().compute_loss(*logits, **kwargs)

    return ProbabilitiesDistillation(loss=keras.losses.KLDivergence())


@contextlib.contextmanager
def _trainable_as_before(model):
    """Restores `trainable` of each layer, which the distiller sets to False in its teacher."""
    before = [(layer, layer.trainable) for layer in _keras.all_layers(model)]
    try:
        yield
    finally:
        for layer, trainable in before:  # outer layers first, since they pass it on
            layer.trainable = trainable
