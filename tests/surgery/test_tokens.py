import keras
import numpy as np
import pytest

import tfprune
from tests.kerashub_models import BACKBONES, hub, inputs_of, randomise
from tfprune.surgery import remove_tokens, unused_tokens

USED = [0, 3, 7, 8, 21, 48]


def test_unused_tokens_are_those_in_no_example():
    assert unused_tokens(9, np.array([[1, 4], [4, 2]])).tolist() == [3, 5, 6, 7, 8]
    assert unused_tokens(9, [[1, 4], [4, 4, 2]], keep=[8]).tolist() == [3, 5, 6, 7]
    assert unused_tokens(BACKBONES["Bert"](), [range(1, 48)]).tolist() == [48, 49]


@pytest.mark.parametrize("corpus", [[], [[9]], [[-1]], [[0.5]]])
def test_what_is_no_corpus_is_refused(corpus):
    with pytest.raises(ValueError, match="must hold tokens|must be integers from 0 to 8"):
        unused_tokens(9, corpus)


@pytest.mark.parametrize("name", ["Llama", "Bert"])
def test_backbones_have_a_smaller_vocabulary(name):
    model = randomise(BACKBONES[name]())
    small, new_ids = remove_tokens(model, unused_tokens(model, [USED]))
    assert type(small) is type(model) and small.vocabulary_size == len(USED)
    assert model.vocabulary_size == 50
    assert new_ids[USED].tolist() == list(range(len(USED))) and (new_ids >= 0).sum() == len(USED)
    x = inputs_of(model)
    old = np.random.default_rng(0).choice(USED, x["token_ids"].shape)
    ours, theirs = model({**x, "token_ids": old}), small({**x, "token_ids": new_ids[old]})
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])  # tied logits, and logits of their own
def test_causal_models_lose_the_logits_too(name):
    backbone = BACKBONES[name]()
    task = randomise(getattr(hub().models, f"{name}CausalLM")(backbone, preprocessor=None))
    small, new_ids = remove_tokens(task, unused_tokens(task, [USED]))
    x = inputs_of(backbone)
    old = np.random.default_rng(0).choice(USED, x["token_ids"].shape)
    logits = np.asarray(task({**x, "token_ids": old}))[..., USED]
    np.testing.assert_allclose(small({**x, "token_ids": new_ids[old]}), logits, atol=2e-5)
    small.compile(sampler="greedy")
    given = {"token_ids": new_ids[old].astype("int32"), "padding_mask": np.ones_like(old)}
    given["padding_mask"][:, 4:] = 0
    assert np.asarray(small.generate(given, stop_token_ids=None)["token_ids"]).max() < len(USED)


def classifier(**options):
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(20, 4, name="words", **options)(inputs)
    x = keras.layers.LSTM(5, name="steps")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="classes")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("masked", [False, True])
def test_functional_models_of_stock_layers_keep_slots_and_masks(masked):
    model = classifier(mask_zero=True)
    if masked:
        model = tfprune.prunable(model)
        tfprune.prune_weights(model, 0.3, only="words")
    used = np.array([0, 2, 5, 19])
    old = np.random.default_rng(0).choice(used, (16, 6))
    model.fit(old, old[:, 0] % 3, verbose=0)
    small, new_ids = remove_tokens(model, unused_tokens(model, [used]))
    np.testing.assert_allclose(model(old), small(new_ids[old]), atol=1e-6)
    kernel, few = (m.get_layer("words").embeddings for m in (model, small))
    np.testing.assert_array_equal(np.asarray(kernel)[used], few)
    slots = [
        [v for v in m.optimizer.variables if "words_embeddings_velocity" in v.path]
        for m in (model, small)
    ]
    np.testing.assert_array_equal(np.asarray(slots[0][0])[used], slots[1][0])
    if masked:
        masks = [
            np.asarray(m.get_layer("words").trainable_masks["embeddings"]) for m in (model, small)
        ]
        np.testing.assert_array_equal(masks[0][used], masks[1])
        assert not masks[1].all()
    small.fit(new_ids[old], old[:, 0] % 3, verbose=0)


def test_what_cannot_be_is_refused():
    model = classifier(mask_zero=True)
    with pytest.raises(ValueError, match="must not hold 0"):
        remove_tokens(model, [0, 1])
    with pytest.raises(ValueError, match="some of the ids"):
        remove_tokens(model, [])
    with pytest.raises(ValueError, match="no `Embedding`"):
        remove_tokens(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), [1])
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(20, 4, name="words")(inputs)
    x = x * keras.ops.cast(inputs > 5, "float32")[..., None]
    with pytest.raises(ValueError, match="computes something else for the others"):
        remove_tokens(randomise(keras.Model(inputs, x)), [1, 2, 3])
