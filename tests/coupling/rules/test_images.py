"""Operations on images: channels pass, and pixels that are units do not."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.operating import (
    around,
    beside,
    left,
    pins,
    with_constants,
    with_masks,
)

ops = keras.ops
L = keras.layers
SPACE = (4, 4, 3)

RESIZED = {
    "Resizing": L.Resizing(3, 6),
    "Resizing to larger": L.Resizing(7, 5, interpolation="nearest"),
    "Resizing, cropped": L.Resizing(3, 6, crop_to_aspect_ratio=True),
    "CenterCrop": L.CenterCrop(2, 3),
    "resize": lambda x: ops.image.resize(x, (3, 6)),
    "crop_images": lambda x: ops.image.crop_images(x, 1, 0, target_height=2, target_width=2),
    "max_pool": lambda x: ops.max_pool(x, 2),
    "average_pool": lambda x: ops.average_pool(x, 3, 1, padding="same"),
    "extract_patches": lambda x: ops.image.extract_patches(x, 2),
    "extract_patches, close": lambda x: ops.image.extract_patches(x, (2, 1), strides=(1, 1)),
}
PADDED = {
    "pad_images": lambda x: ops.image.pad_images(x, 1, 1, target_height=8, target_width=6),
    "Resizing, padded": L.Resizing(3, 6, pad_to_aspect_ratio=True),
    "extract_patches, padded": lambda x: ops.image.extract_patches(x, 3, padding="same"),
    "gaussian_blur": lambda x: ops.image.gaussian_blur(x),
}
NOT_ADDING_UP = {
    "resize, bicubic": lambda x: ops.image.resize(x, (3, 6), interpolation="bicubic"),
    "resize, lanczos3": lambda x: ops.image.resize(x, (7, 6), interpolation="lanczos3"),
}
ADAPTIVE = [
    (getattr(L, f"Adaptive{kind}Pooling{n}D"), (4, 6, 5)[:n])
    for kind in ("Average", "Max")
    for n in (1, 2, 3)
    if hasattr(L, f"Adaptive{kind}Pooling{n}D")
]


@pytest.mark.parametrize("name", [*RESIZED, *PADDED, *NOT_ADDING_UP])
def test_masked_channels_go(name):
    function = {**RESIZED, **PADDED, **NOT_ADDING_UP}[name]
    assert with_masks(around(beside(function), SPACE)) == 4


@pytest.mark.parametrize("name", RESIZED)
def test_a_constant_stays_one(name):
    assert with_constants(around(RESIZED[name], SPACE)) == 6


@pytest.mark.parametrize("name", [*PADDED, *NOT_ADDING_UP])
def test_a_constant_does_not_stay_one_beside_zeros(name):
    function = {**PADDED, **NOT_ADDING_UP}[name]
    assert with_constants(around(function, SPACE)) == 8
    assert with_constants(around(function, SPACE, activation="tanh"), equal=True) == 6


@pytest.mark.parametrize("cls, shape", ADAPTIVE)
def test_adaptive_pooling(cls, shape):
    if len(shape) == 3:  # TensorFlow pools over three axes in single precision only
        model = around(beside(cls(2)), (*shape, 3))
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
        assert left(tfprune.strip(model)) == 4
    else:
        assert with_masks(around(beside(cls(2)), (*shape, 3))) == 4
        assert with_constants(around(cls(2), (*shape, 3))) == 6


def test_channels_first():
    def resized(x):
        x = ops.image.resize(ops.moveaxis(x, -1, 1), (3, 6), data_format="channels_first")
        return ops.moveaxis(x, 1, -1)

    assert with_masks(around(beside(resized), SPACE)) == 4


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda x: ops.image.resize(ops.moveaxis(x, -1, 1), (3, 6)), "positions that are units"),
        (lambda x: ops.image.extract_patches(ops.moveaxis(x, -1, 1), 2), "pixels that are units"),
    ],
)
def test_pixels_that_are_units_stay(function, reason):
    (found,) = pins(around(function, SPACE))
    assert reason in found


def test_a_batch_that_is_taken_for_an_image_stays():
    (found,) = pins(around(lambda x: ops.image.resize(x, (3, 6))))
    assert "takes it for one image" in found


FACTORS = {
    "RandomCrop": (4, 4),
    "RandomShear": ((0.1, 0.5), (0.1, 0.5)),
    "RandomTranslation": (0.5, 0.5),
    "RandomPosterization": (4,),
    "MaxNumBoundingBoxes": (4,),
}
NAMES = [
    *(name for name in dir(L) if name.startswith("Random")),
    *("RandAugment", "AugMix", "CutMix", "MixUp", "Solarization", "MaxNumBoundingBoxes"),
]


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(L, n)])
def test_augmentation_passes_units_on_at_inference(name):
    if name == "RandomColorDegeneration":
        pytest.skip("it takes images of three channels only")
    cls = getattr(L, name)
    takes_factor = name.startswith("Random") and name != "RandomFlip"
    layer = cls(*FACTORS.get(name, (0.5,) if takes_factor else ()))
    images = np.random.default_rng(0).normal(size=(2, *SPACE)).astype("float32")
    np.testing.assert_array_equal(layer(images, training=False), images)
    assert with_masks(around(beside(layer), SPACE)) == 4
    assert with_constants(around(layer, SPACE)) == 6
