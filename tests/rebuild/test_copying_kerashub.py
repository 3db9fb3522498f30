"""Copies of KerasHub's backbones and tasks, with and without masks made in place."""

import keras
import numpy as np
import pytest

import tfprune
from tests.kerashub_models import BACKBONES, hub, inputs_of, randomise
from tfprune.masks.in_place import mask_in_place
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.copying import copy_model

pytest.importorskip("keras_hub", reason="KerasHub is an extra of the tests")

SLOW = {"T5", "MobileNet", "MiT", "SegFormer", "Swin", "D-FINE", "SAM", "EfficientNet", "VAE"}


def some(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


def arrays(outputs):
    return [np.asarray(keras.ops.convert_to_numpy(t)) for t in keras.tree.flatten(outputs)]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_copied(model, new):
    assert isinstance(new, type(model))
    assert [v.path for v in new.variables] == [v.path for v in model.variables]
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}


@pytest.mark.parametrize("name", some(BACKBONES))
def test_backbone_is_copied_bit_for_bit_and_every_weight_carries_masks(name):
    model = randomise(BACKBONES[name]())
    x = inputs_of(model)
    expected = arrays(model(x, training=False))
    plain = copy_model(model).model
    assert type(plain) is type(model)
    masked = copy_model(model, exchange=mask_in_place).model
    for weight in model.weights:
        weight.assign(keras.ops.zeros_like(weight))
    for new in (plain, masked):
        assert_copied(model, new)
        assert_same(new(x, training=False), expected)
    weights = [m.weight for layer in masked_layers(masked) for m in layer.masks_by_name.values()]
    assert {id(weight) for weight in weights} >= {id(w) for w in masked.trainable_weights}
    assert len({id(weight) for weight in weights}) == len(weights)


# Of EfficientNet, KerasHub itself cannot load this file.
SAVED = ["Bert", "DebertaV3", "Gemma3", "Qwen3Moe", "Whisper", "SAM", "ViT", "HGNetV2", "CLIP"]


@pytest.mark.parametrize("name", some(SAVED))
def test_masked_backbone_is_saved_and_loaded(name, tmp_path):
    model = BACKBONES[name]()
    new = copy_model(model, exchange=mask_in_place).model
    for layer in masked_layers(new):
        for weight, variable in layer.masked_weights.items():
            place = np.arange(int(np.prod(variable.shape))).reshape(tuple(variable.shape))
            tfprune.set_masks(new, layer, weight, trainable=place % 5 != 1, frozen=place % 5 == 2)
    new.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    x = inputs_of(model)
    assert_same(loaded(x, training=False), new(x, training=False))
    for ours, theirs in zip(masked_layers(new), masked_layers(loaded), strict=True):
        assert list(ours.masks_by_name) == list(theirs.masks_by_name)
        for a, b in zip(ours.masks_by_name.values(), theirs.masks_by_name.values(), strict=True):
            assert_same((a.trainable, a.frozen), (b.trainable, b.frozen))


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "ab", "a"]


def classifier():
    models = hub().models
    preprocessor = models.BertTextClassifierPreprocessor(
        models.BertTokenizer(vocabulary=WORDS), sequence_length=8
    )
    return models.BertTextClassifier(
        BACKBONES["Bert"](), num_classes=2, preprocessor=preprocessor, dropout=0.0
    )


def language_model():
    models = hub().models
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ġa": 5}
    preprocessor = models.GPT2CausalLMPreprocessor(
        models.GPT2Tokenizer(vocabulary=vocabulary, merges=["a b", "Ġ a"]), sequence_length=8
    )
    return models.GPT2CausalLM(BACKBONES["GPT2"](), preprocessor=preprocessor)


@pytest.mark.slow
@pytest.mark.parametrize("make", [classifier, language_model])
def test_task_with_its_preprocessor_is_copied_and_trains(make):
    model = make()
    randomise(model)
    texts, labels = ["ab a ab", "ab ab"], np.array([0, 1])
    data = (texts, labels) if make is classifier else (texts,)
    new = copy_model(model).model
    masked = copy_model(model, exchange=mask_in_place).model
    for each in (new, masked):
        assert_copied(model, each)
        assert each.preprocessor is not None
        assert each.backbone is not model.backbone
    if make is classifier:
        assert_same(new.predict(texts, verbose=0), model.predict(texts, verbose=0))
        assert_same(masked.predict(texts, verbose=0), model.predict(texts, verbose=0))
    else:
        expected = model.generate(["ab a"], max_length=6)
        assert new.generate(["ab a"], max_length=6) == expected
        assert masked.generate(["ab a"], max_length=6) == expected
    embedding = masked.backbone.token_embedding
    kept = np.arange(32) < 20
    kept = np.broadcast_to(kept, embedding.embeddings.shape)
    tfprune.set_masks(masked, embedding, "embeddings", trainable=kept)
    losses = []
    for each in (model, new, masked):
        each.compile(optimizer=keras.optimizers.Adam(1e-3), loss=model.loss, jit_compile=False)
        losses.append(each.fit(*data, batch_size=2, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    values = np.asarray(embedding.embeddings)
    assert not values[~kept].any()
    assert values[kept].all()
