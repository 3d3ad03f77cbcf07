import pytest
from transformers import PreTrainedModel

from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model()
