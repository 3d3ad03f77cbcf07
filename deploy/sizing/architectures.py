"""What vLLM can do with a model class. Each function imports vLLM, which takes seconds."""

import os

from deploy.errors import DeployError


def check_architecture(name: str, architecture: str) -> None:
    """Check that vLLM supports the model class named `architecture`.

    Raises:
        DeployError: vLLM does not support the architecture.

    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import __version__
    from vllm.model_executor.models.registry import ModelRegistry

    if architecture not in ModelRegistry.get_supported_archs():
        raise DeployError(
            f"vLLM {__version__} cannot serve '{name}': it does not support {architecture}; use a "
            "model of an architecture in https://docs.vllm.ai/en/latest/models/supported_models.html"
        )


def serves_adapters(architecture: str) -> bool:
    """Return whether vLLM can serve LoRA adapters of an architecture."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    known = ModelRegistry.models.get(architecture)
    return known is not None and supports_lora(known.load_model_cls())
