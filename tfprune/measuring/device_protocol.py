"""Small models for the benchmark tool of a runtime on another device, and what the tool printed.

LiteRT's `benchmark_model` times one file at a time, and prints its path and a summary. ONNX
Runtime's `onnxruntime_perf_test` runs many pieces in one model, with a profile of its nodes.

References:
    https://ai.google.dev/edge/litert/models/measurement
    https://github.com/microsoft/onnxruntime/tree/main/onnxruntime/test/perftest
"""

import json
import pathlib
import re

from tfprune._tools import progress
from tfprune.exporting import litert, onnx_file
from tfprune.measuring import runtimes
from tfprune.measuring.latency_table import LatencyTable
from tfprune.measuring.piece_timing import built, bundled, seconds_in_profile

MANIFEST, PROTOCOL = "pieces.json", "PROTOCOL.txt"
_IN_BUNDLE = 40

_LITERT_LINE = (
    "benchmark_model --graph={file} --num_threads={threads} --use_xnnpack=true --warmup_runs=3 "
    "--num_runs=30 >> output.txt 2>&1"
)
_ONNX_LINE = (
    "onnxruntime_perf_test -e cpu -I -m times -r 30 -o 99 -x {threads} -y 1 -p {name} {file} "
    "result.txt"
)
_PROTOCOL = """\
{count} pieces of the model {model!r} for {runtime}, {threads} thread(s).

1. Get {tool} for the device:
   {url}
2. Copy this folder to the device, and run these commands in it, with nothing else running:

{lines}

3. Copy {output} back into this folder, and read it:

tfprune latency-table read . {output} --device NAME -o table.json

4. Prune for the device with `tfprune.budgets.Latency(..., runtime={key!r}, table="table.json")`.
"""
_TOOLS = {
    "litert": (
        "benchmark_model",
        "https://ai.google.dev/edge/litert/models/measurement",
        "output.txt",
    ),
    "onnx": (
        "onnxruntime_perf_test",
        "https://github.com/microsoft/onnxruntime/tree/main/onnxruntime/test/perftest",
        "bundle*.json",
    ),
}


def write(models, folder, *, name, runtime, threads=None, quantize=None, verbose=0):
    """Writes small models, the commands that time them, and which is which.

    Args:
        models: A list of `SmallModel`, each with another digest.
        folder: A path that is free.
        name: What the whole model is called.
        runtime: "litert" or "onnx".
        threads, quantize: As in `tfprune.budgets.Latency`.
        verbose: 1 shows progress.

    Returns:
        How many pieces were written, and how many cannot be converted.

    Raises:
        ValueError: If no piece can be converted.
        OSError: If the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir()
    threads = threads or 1
    digests, lines = {}, []
    with progress.stage("Write pieces", len(models), verbose=verbose) as bar:
        for start in range(0, len(models), _IN_BUNDLE):
            made = built(models[start : start + _IN_BUNDLE], start)
            here = [
                (model, small.digest)
                for model, small in zip(made, models[start:], strict=False)
                if model is not None
            ]
            if runtime == "litert":
                written = _write_litert(here, folder, threads, quantize)
            else:
                written = _write_onnx(here, folder, threads, f"bundle{len(lines)}")
            for names, line in written:
                digests.update(names)
                lines.append(line)
            bar.add(len(made))
    if not digests:
        raise ValueError(
            f"No piece of the model can be converted to {runtimes.NAMES[runtime]}. "
            f"Received: model={name!r}, of {len(models)} pieces."
        )
    missing = sorted({model.digest for model in models} - set(digests.values()))
    how = {"runtime": runtime, "threads": threads, "quantize": quantize}
    content = {**how, "pieces": digests, "not_converted": missing}
    (folder / MANIFEST).write_text(json.dumps(content, indent=0))
    tool, url, output = _TOOLS[runtime]
    text = _PROTOCOL.format(
        count=len(digests),
        model=name,
        runtime=runtimes.NAMES[runtime],
        key=runtime,
        threads=threads,
        tool=tool,
        url=url,
        output=output,
        lines="\n".join(lines),
    )
    (folder / PROTOCOL).write_text(text)
    return len(digests), len(missing)


def _write_litert(models, folder, threads, quantize):
    for model, digest in models:
        data = None
        if quantize == "int8":
            inputs = runtimes.random_inputs(model, [each.shape[1:] for each in model.inputs])
            data = inputs
        try:
            content = litert.converted(model, quantize, data)
        except (ValueError, RuntimeError):
            continue
        file = f"{model.name}.tflite"
        (folder / file).write_bytes(content)
        yield {model.name: digest}, _LITERT_LINE.format(file=file, threads=threads)


def _write_onnx(models, folder, threads, name):
    if not models:
        return
    try:
        content = onnx_file.converted(bundled([model for model, _ in models]))
    except (ValueError, RuntimeError):
        half = len(models) // 2
        if half:
            yield from _write_onnx(models[:half], folder, threads, f"{name}a")
            yield from _write_onnx(models[half:], folder, threads, f"{name}b")
        return
    file = f"{name}.onnx"
    (folder / file).write_bytes(content)
    names = {model.name: digest for model, digest in models}
    yield names, _ONNX_LINE.format(name=name, file=file, threads=threads)


def read(folder, outputs, device):
    """The table of a device, out of what the tool printed or wrote there.

    Args:
        folder: The folder that was written.
        outputs: Paths: what `benchmark_model` printed, in one file or several, or the profiles of
            `onnxruntime_perf_test`.
        device: String, what the device is called.

    Returns:
        A `LatencyTable`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the folder is none that was written, or the outputs lack a piece.
    """
    path = pathlib.Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text())
        pieces, how = content["pieces"], {n: content[n] for n in ("runtime", "threads", "quantize")}
        not_converted = content["not_converted"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            "The folder must be one that `tfprune latency-table write` wrote. "
            f"Received: {str(path)!r}, which is no list of pieces."
        ) from error
    found = {}
    for output in outputs:
        text = pathlib.Path(output).read_text(errors="replace")
        try:
            read_output = seconds_in_profile if how["runtime"] == "onnx" else seconds_printed
            found.update(read_output(text))
        except ValueError as error:
            raise ValueError(f"{output} cannot be read: {error}.") from error
    missing = [name for name in pieces if name not in found]
    if missing:
        raise ValueError(
            f"The output lacks {len(missing)} of {len(pieces)} pieces ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}). Run their commands of {PROTOCOL}, and read "
            "all outputs together."
        )
    seconds = {digest: found[name] for name, digest in pieces.items()}
    environment = {"machine": device, **how}
    return LatencyTable(environment, {**seconds, **dict.fromkeys(not_converted)})


def seconds_printed(text):
    """The seconds of each file that LiteRT's `benchmark_model` timed, by the name of the file.

    The median of the runs is taken, where the tool prints it, else their mean.

    Args:
        text: What it printed, for one file or several.

    Returns:
        Dict from names without ending to seconds.

    Raises:
        ValueError: If nothing was timed.

    Example:

    >>> seconds_printed('''
    ... INFO: Graph: [piece7x.tflite]
    ... INFO: count=30 first=1300 curr=1210 min=1190 max=1400 avg=1250 std=9 p5=1195 median=1205
    ... INFO: Inference timings in us: Init: 52, First inference: 13, Warmup (avg): 12.3, \
Inference (avg): 1250
    ... ''')
    {'piece7x': 0.001205}
    """
    found, name, median = {}, None, None
    for line in text.splitlines():
        graph = re.search(r"Graph: \[(.+?)\]", line)
        runs = re.search(r"count=\d+ .*\bmedian=([\d.e+]+)", line)
        summary = re.search(r"Inference \(avg\): ([\d.e+]+)", line)
        if graph:
            name, median = pathlib.PurePosixPath(graph[1].replace("\\", "/")).stem, None
        elif runs:
            median = float(runs[1])  # that of the timed runs comes last
        elif summary and name is not None:
            found[name] = 1e-6 * (float(summary[1]) if median is None else median)
    if not found:
        raise ValueError("it is nothing that benchmark_model printed")
    return found
