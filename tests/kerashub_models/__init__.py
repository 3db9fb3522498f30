"""KerasHub's backbones and tasks, each built small without a network, and inputs for them.

`keras_hub` is imported when the first of them is built; it takes seconds.
"""

from tests.kerashub_models.building import hub
from tests.kerashub_models.examples import count_beside_vocabulary, headed, inputs_of, randomise
from tests.kerashub_models.images import IMAGE_BACKBONES
from tests.kerashub_models.text import TEXT_BACKBONES

BACKBONES = {**TEXT_BACKBONES, **IMAGE_BACKBONES}
"""Functions that build a model, by its name."""
