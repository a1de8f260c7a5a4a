"""Forge main's name of ``ldm_patched.modules.model_management``."""
from ldm_patched.modules.model_management import current_loaded_models, load_models_gpu  # noqa: F401
