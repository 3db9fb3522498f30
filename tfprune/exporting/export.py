"""`tfprune.export`: writes a model for inference as SavedModel, `.keras`, LiteRT or ONNX file."""

import contextlib
import pathlib

import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune._tools.files import all_written_whole
from tfprune._tools.finite import check_finite_weights
from tfprune.coupling.failures import no_call
from tfprune.exporting.targets import Target, named_errors
from tfprune.masks.setting import masked_layers


def export(model, path, *, format=None, overwrite=False, **options):
    """Exports a model for inference as SavedModel, `.keras`, LiteRT or ONNX file.

    The files do not need tfprune.

    * `"saved_model"`, the default: a directory for `tf.saved_model.load`, TensorFlow Serving and
      converters. Only weights that inference reads are stored, each once: no optimizer, metrics or
      seeds. The signature `serving_default` takes the model's inputs as keywords by name and
      returns a dict by output name (repeated output names get the suffix `_1`, `_2`); the function
      `serve` takes and returns tensors in the structure of the model's own inputs and outputs.
      Dynamic dimensions stay dynamic. Layers run in inference mode. Look-up tables are stored too.
    * `"keras"`: a `.keras` file without optimizer and compile state. To go on with training
      later, save with `model.save` instead.
    * `"litert"` or `"tflite"`: a `.tflite` file for LiteRT (TensorFlow Lite), with the same names
      in its signature. Weights are float32, or smaller with `quantize`; zeros in whole blocks are
      left out with `sparse`. Inputs and outputs keep their types, but for those in half precision:
      a model that computes in it, as with the policy "mixed_float16", is converted in float32.
    * `"onnx"`: an `.onnx` file, again with the same names, in float32 where the model computes in
      bfloat16. Needs `pip install 'tfprune[onnx]'`.

    The files are read back and checked. A SavedModel: every stored value against the model's,
    and, if no input has a dynamic size but the batch and no random numbers are drawn and no state
    is updated, the outputs for one random sample. LiteRT and ONNX: the outputs, always; the error
    is the root mean square of the difference over that of the model's output. The model appears
    under `path` complete or not at all, also if the process is killed.

    Args:
        model: A Functional or built Sequential model without masks; for the `.keras` format any
            built model.
        path: Where to write, on a local file system: a directory, or a file that ends in `.keras`,
            `.tflite` or `.onnx`.
        format: `"saved_model"`, `"keras"`, `"litert"` or `"onnx"`; by default that of the ending
            of `path`.
        overwrite: Whether to replace an existing model of that format at `path`. It stays until
            the new one is complete. What is no model is never replaced.
        **options: Options of the format. `"onnx"` takes `representative_data`, `"litert"` all:

            * `representative_data`: Typical inputs, in the structure in which the model takes
              them, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches of
              inputs or of `(inputs, targets)`. Outputs are compared on the first of them; without
              them on random numbers. A hundred samples or more should calibrate `"int8"`.
            * `quantize`: None; `"float16"`: weights of half the size; `"dynamic"`: int8 weights,
              of those with 1,024 elements or more, float32 activations; `"int8"`: weights and
              activations are int8, calibrated on `representative_data`, which must be given.
              What was trained by `tfprune.quantize_aware` keeps its ranges, and is int8 there with
              any of these.
            * `sparse`: Whether weights with enough zeros are stored without them. Dense layers
              pruned by `patterns.Block((4, 1))` then compute without them too, which is faster for
              single samples from a sparsity of about 80 % on (`benchmarks/sparse_litert.py`), and
              for batches later or never. True is refused where that would be slower; `"size"`
              takes the smaller file whatever its speed. Not with `"float16"` and `"dynamic"`.
              Zeros in 1x1 convolutions LiteRT leaves out on ARM only, where at least two thirds
              are zero and the network consists of these, of depthwise 3x3 and 5x5 convolutions
              with symmetric padding, sums and products, from a 3x3 convolution of an RGB image
              with strides 2 to a global average (XNNPACK's sparse inference, which tfmot's
              `PruneForLatencyOnXNNPack` is for); export with `"size"` for it.
            * `batch_size`: The fixed batch size; recurrent layers need one.
            * `tolerance`: The largest error; by default 1e-4, 0.03 for `"float16"`, 0.2 for
              `"dynamic"` and 0.3 for `"int8"`.

    Returns:
        The path as `pathlib.Path`.

    Raises:
        ValueError: If the model carries masks or cannot be exported, if an option does not fit, or
            if the path is taken or does not fit the format. Nothing is written then.
        ImportError: If the format is `"onnx"` and its packages are not installed.
        RuntimeError: If the written model differs from the model. It is removed then.
        OSError: If the path cannot be written, because the disk is full, say, or the directory
            closed (`PermissionError`). The path is as it was then.

    Example:

    >>> import pathlib, tempfile
    >>> import keras
    >>> import tensorflow as tf
    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="y")])
    >>> path = export(model, pathlib.Path(tempfile.mkdtemp()) / "small")
    >>> loaded = tf.saved_model.load(path)
    >>> loaded.serve(tf.ones((5, 3))).shape
    TensorShape([5, 2])
    >>> list(loaded.signatures["serving_default"](x=tf.ones((5, 3))))
    ['y']
    >>> export(model, path.with_suffix(".tflite"), format="litert", quantize="float16").name
    'small.tflite'
    """
    with exporting([path], format, overwrite, **options) as write:
        write(model)
    return pathlib.Path(path)


@contextlib.contextmanager
def exporting(paths, format=None, overwrite=False, **options):
    """A context in which models are exported to several paths: to all of them, or to none.

    Paths and options are checked when it is entered, before any work: whether each can be written
    too, for which hidden directories are made beside them. The models take their paths when it is
    left without an error.

    Args:
        paths: A list of paths.
        format: As in `export`, for all.
        overwrite, **options: As in `export`.

    Yields:
        A function `write(model, path=None)`, which writes a model for one of the paths or for all,
        and returns the temporary place of the last.

    Raises:
        ValueError, OSError: As `export` does.
    """
    targets = [Target(path, format, overwrite, options) for path in paths]
    resolved = [target.path.resolve() for target in targets]
    for index, target in enumerate(targets):
        if resolved[index] in resolved[:index]:
            raise ValueError(
                f"Argument `path` must be another for each file. Received: {target.received} twice."
            )
    with named_errors(targets), all_written_whole(resolved) as places:

        def write(model, path=None):
            _check_model(model)
            for target, place in zip(targets, places, strict=True):
                if path is None or pathlib.Path(path) == target.path:
                    with named_errors([target]):
                        target.module.write(model, place, **options)
                    written = place
            return written

        try:
            yield write
        except (OSError, tf.errors.OpError) as error:
            error.is_named = True  # it is of other work
            raise


def _check_model(model):
    check_model(model)
    _check_no_masks(model)
    check_finite_weights(model)
    if not _keras.has_own_call(model):
        raise ValueError(no_call(model))
    if not model.built:
        raise ValueError(
            f"Argument `model` must be built. Received: model={model.name!r}. Call it on data once."
        )


def _check_no_masks(model):
    masked = masked_layers(model)
    if masked:
        names = ", ".join(repr(layer.name) for layer in masked[:5])
        raise ValueError(
            "Cannot export a model that carries masks, because they would be exported too. "
            f"Received: model={model.name!r} with {len(masked)} masked layers ({names}"
            f"{', ...' if len(masked) > 5 else ''}). Call `tfprune.strip(model)` first and export "
            "what it returns."
        )
