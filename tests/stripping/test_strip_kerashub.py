"""KerasHub's backbones through prunable, prune_units and strip: all are exact and get smaller.

Each has a dense layer on its outputs, as tasks do, so that the width of its blocks can go.
"""

import keras
import numpy as np
import pytest

import tfprune
from tests.kerashub_models import (
    BACKBONES,
    count_beside_vocabulary,
    headed,
    inputs_of,
    randomise,
)
from tfprune.rebuild.copying import in_double_precision

pytest.importorskip("keras_hub", reason="KerasHub is an extra of the tests")

QUICK = {"Bert", "Electra", "ViT", "VGG", "Llama", "CLIP"}

TRANSFORMERS = {
    *("Bert", "DistilBert", "Roberta", "XLMRoberta", "ESM2", "GPT2", "GPTNeoX", "OPT", "Bart"),
    *("Llama", "Llama3", "Mistral", "Phi3", "Qwen2", "Qwen3", "Albert", "Electra", "ESM1"),
    *("Gemma", "Gemma2", "SmolLM3", "Mixtral", "QwenMoe", "Qwen3Moe", "GptOss", "Gemma3", "T5"),
    *("Falcon", "Bloom", "RoformerV2", "DebertaV3", "Whisper", "ViT", "DeiT", "DINOV2", "DINOV3"),
    *("MiT", "SegFormer", "Swin", "ViTDet", "SAM", "CLIP", "SigLIP", "T5Gemma", "XLNet"),
}
"""Which keep at most 0.35 of their parameters beside the vocabulary at half of the units."""


def outputs(model, x):
    found = keras.tree.flatten(model(x, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in found]


def loaded(path):
    """Where a layer of CLIP was inlined, a function that is not registered has to be given."""
    from keras_hub.src.models.clip.clip_layers import quick_gelu

    custom_objects = {"quick_gelu": quick_gelu} if "CLIP" in str(path) else None
    return keras.saving.load_model(path, custom_objects=custom_objects)


def assert_same(masked, small, x):
    """In double precision where single precision cannot tell."""
    pairs = list(zip(outputs(masked, x), outputs(small, x), strict=True))
    if all(np.abs(theirs - ours).max() <= 1e-4 * np.abs(ours).max() for ours, theirs in pairs):
        return
    masked, small = (in_double_precision(model).model for model in (masked, small))
    for ours, theirs in zip(outputs(masked, x), outputs(small, x), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-9 * np.abs(ours).max())


def assert_reloads(small, model, x, path):
    """The file of the small model holds it.

    Or Keras can write no config of a layer, which `export` names; or it can load no file of the
    model either, as some classes of KerasHub have a config that is not whole.
    """
    try:
        small.save(path)
    except Exception:
        with pytest.raises(ValueError, match=r"Keras can write no config of a layer.*layer='"):
            tfprune.export(small, path.with_name("exported.keras"))
        return
    try:
        again = loaded(path)
    except Exception as error:
        model.save(path)
        with pytest.raises(type(error)):
            loaded(path)
        return
    for ours, theirs in zip(outputs(small, x), outputs(again, x), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BACKBONES]
)
def test_backbone_is_stripped_exactly(name, tmp_path):
    model = randomise(headed(BACKBONES[name]()))
    x = inputs_of(model)
    masked = tfprune.prunable(model)
    for ours, theirs in zip(outputs(model, x), outputs(masked, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small, report = tfprune.strip(masked, return_report=True)
    assert small.count_params() < model.count_params()
    assert_same(masked, small, x)
    if name in TRANSFORMERS:
        assert count_beside_vocabulary(small) <= 0.35 * count_beside_vocabulary(model)
    if not report.not_from_config:
        assert_reloads(small, model, x, tmp_path / f"{name}.keras")
