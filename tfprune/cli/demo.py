"""The demonstration: half of a network's neurons go, its accuracy stays, its file shrinks.

Each of these claims is checked with numbers of the reloaded SavedModel. If one fails, the command
ends with exit code 1.
"""

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tfprune._tools.files import written_whole
from tfprune.callbacks import PruneUnits
from tfprune.cli import demo_plot
from tfprune.exporting.export import exporting
from tfprune.exporting.loading import load
from tfprune.measuring.file_size import file_size
from tfprune.reports.compare import compare
from tfprune.schedules import PolynomialDecay
from tfprune.stripping.prunable import prunable
from tfprune.stripping.strip import strip

_ENDS = (".keras", "_saved_model")
_BATCH = 32
_DENSE_EPOCHS = 12
_PRUNED_EPOCHS = 18
_RECOVERY = 1 / 3  # of the steps of the second training come after the last unit is pruned


@dataclass(frozen=True)
class Claim:
    """A claim of the demo, and whether it holds."""

    text: str
    holds: bool

    def __str__(self):
        return f"{'✓' if self.holds else '✗ FAILED:'} {self.text}"


@dataclass(frozen=True)
class DemoResult:
    """The measurements of the demo.

    Attributes:
        out: The directory with the models and the plot.
        target: The fraction of units to remove.
        widths: For each layer its name and its units before and after.
        accuracy_dense, accuracy_masked, accuracy_small: On the test split; the small model's as
            measured on the SavedModel after loading it back.
        parameters_dense, parameters_small: How many there are.
        bytes_dense, bytes_small: All files of the SavedModels.
        error: The largest difference between the outputs of the masked model and the small
            SavedModel on the test split, over the largest output.
        seconds: The duration.
    """

    out: Path
    target: float
    widths: tuple
    accuracy_dense: float
    accuracy_masked: float
    accuracy_small: float
    parameters_dense: int
    parameters_small: int
    bytes_dense: int
    bytes_small: int
    error: float
    seconds: float

    @property
    def claims(self):
        """The claims of the demo, as `Claim`s."""
        parameters = self.parameters_small / self.parameters_dense
        size = self.bytes_small / self.bytes_dense
        loss = self.accuracy_dense - self.accuracy_small
        wanted = [before - round(before * self.target) for _, before, _ in self.widths]
        before, after = (sum(width[i] for width in self.widths) for i in (1, 2))
        return (
            Claim(
                f"{before - after} of {before} units are gone, {self.target:.0%} of every layer",
                all(abs(w[2] - n) <= 1 for w, n in zip(self.widths, wanted, strict=True)),
            ),
            Claim(
                f"accuracy {self.accuracy_small:.2%}, dense {self.accuracy_dense:.2%}: "
                "no more than 1 point lost",
                loss <= 0.01,
            ),
            Claim(
                f"SavedModel of {size:.1%} of the bytes, with {parameters:.1%} of the parameters",
                abs(size - parameters) <= 0.05,
            ),
            Claim(
                f"small and masked model differ by {self.error:.1e} of the largest output",
                self.error <= 1e-5,
            ),
        )

    @property
    def holds(self):
        """Whether all claims hold."""
        return all(claim.holds for claim in self.claims)


def require_extras():
    """Raises an `ImportError` that says what to install, if something is missing."""
    names = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
    missing = [name for module, name in names.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"the demo needs {' and '.join(missing)}. "
            "Install with: python -m pip install 'tfprune[demo]'"
        )


def run(out="tfprune-demo", *, target=0.5, seed=0, console=None):
    """Trains a network on handwritten digits, prunes, strips, exports and measures it.

    Args:
        out: The directory for `dense` and `small`, each as SavedModel and `.keras`, and
            `plot.png`. Only these are overwritten in it, if they are models.
        target: The fraction of the units of each layer to remove.
        seed: Of the split of the data, the weights and the order of the data.
        console: A `rich.console.Console` to print on.

    Returns:
        A `DemoResult`.

    Raises:
        ImportError: If scikit-learn or matplotlib is missing.
        OSError: If `out` cannot be written to; this is found before the training.
        ValueError: If a file that is no model has the name of one; before the training, too.
    """
    started = time.perf_counter()
    require_extras()
    out = Path(out)
    console = console or Console()
    paths = [out / f"{name}{end}" for name in ("dense", "small") for end in _ENDS]
    picture = out / "plot.png"
    with exporting(paths, overwrite=True) as write, written_whole(picture.resolve()) as place:
        keras.utils.set_random_seed(seed)
        train, test = _digits(seed)
        with _progress(console) as progress:
            dense, dense_curve = _train_dense(train, test, progress)
            masked, masked_curve = _train_pruned(dense, train, test, target, progress)
        small = strip(masked)
        places = [write(m, p) for m, p in zip((dense, dense, small, small), paths, strict=True)]
        result = _measure(dense, masked, small, test, out, places[1::2], target, started)
        demo_plot.save(place, dense_curve, masked_curve, result.widths)
        console.print(compare(dense, small, data=test, metrics=["accuracy"]))
    console.print(f"Models and plot.png are in {out} ({result.seconds:.0f} s).", highlight=False)
    for claim in result.claims:
        console.print(str(claim), style="green" if claim.holds else "bold red", highlight=False)
    return result


# Data and model ---------------------------------------------------------------------------------


def _digits(seed):
    """1,797 images of 8 x 8 pixels, a quarter of them for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    return (x_train, y_train), (x_test, y_test)


def _network():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(128, 3, padding="same", activation="relu", name="conv_3"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.3, name="dropout"),
            layers.Dense(256, activation="relu", name="hidden"),
            layers.Dense(10, name="digit"),
        ],
        name="digits",
    )


# Training ---------------------------------------------------------------------------------------


def _train_dense(train, test, progress):
    model = _network()
    _compile(model, _steps(train, _DENSE_EPOCHS))
    return model, _fit(model, train, test, _DENSE_EPOCHS, progress, "Train the dense model")


def _train_pruned(dense, train, test, target, progress):
    """Goes on with a masked copy: units go step by step, then those left recover."""
    model = prunable(dense)
    steps = _steps(train, _PRUNED_EPOCHS)
    _compile(model, steps)
    last = int(steps * (1 - _RECOVERY))
    schedule = PolynomialDecay(0.0, target, begin_step=0, end_step=last, frequency=last // 12)
    prune = PruneUnits(schedule, criterion="activation_contribution")
    curve = _fit(model, train, test, _PRUNED_EPOCHS, progress, "Prune and fine-tune", prune)
    return model, curve


def _steps(train, epochs):
    return -(-len(train[0]) // _BATCH) * epochs


def _compile(model, steps):
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _fit(model, train, test, epochs, progress, title, *callbacks):
    curve = _Curve(progress, title, _steps(train, epochs))
    model.fit(
        *train,
        batch_size=_BATCH,
        epochs=epochs,
        validation_data=test,
        callbacks=[*callbacks, curve],
        verbose=0,
    )
    return curve


class _Curve(keras.callbacks.Callback):
    """Moves the progress bar and notes accuracy and sparsity over the steps."""

    def __init__(self, progress, title, steps):
        super().__init__()
        self.steps = steps
        self.accuracy = []
        self.sparsity = [0.0]
        self._progress = progress
        self._task = progress.add_task(title, total=steps, state="")

    def on_train_batch_end(self, batch, logs=None):
        self.sparsity.append(logs.get("unit_sparsity", 0.0))
        self._progress.advance(self._task)

    def on_epoch_end(self, epoch, logs=None):
        self.accuracy.append((len(self.sparsity) - 1, logs["val_accuracy"]))
        state = f"accuracy {logs['val_accuracy']:.1%}, {self.sparsity[-1]:3.0%} of units pruned"
        self._progress.update(self._task, state=state)


def _progress(console):
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    return Progress(*columns, console=console)


# Measuring --------------------------------------------------------------------------------------


def _measure(dense, masked, small, test, out, saved, target, started):
    images, labels = test
    outputs_masked = masked.predict(images, verbose=0)
    outputs_dense, outputs_small = (load(place).run({"image": images})["digit"] for place in saved)
    difference = np.abs(outputs_masked - outputs_small).max()
    return DemoResult(
        out=out,
        target=target,
        widths=_widths(dense, small),
        accuracy_dense=_accuracy(outputs_dense, labels),
        accuracy_masked=_accuracy(outputs_masked, labels),
        accuracy_small=_accuracy(outputs_small, labels),
        parameters_dense=dense.count_params(),
        parameters_small=small.count_params(),
        bytes_dense=file_size(saved[0]).bytes,
        bytes_small=file_size(saved[1]).bytes,
        error=float(difference / np.abs(outputs_masked).max()),
        seconds=time.perf_counter() - started,
    )


def _accuracy(outputs, labels):
    return float(np.mean(outputs.argmax(axis=-1) == labels))


def _widths(dense, small):
    """Name and units before and after of every layer but the last, whose units are the classes."""
    makers = [layer for layer in dense.layers if layer.weights][:-1]
    return tuple(
        (layer.name, layer.bias.shape[0], small.get_layer(layer.name).bias.shape[0])
        for layer in makers
    )
