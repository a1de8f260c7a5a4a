"""Where models are: here all on one device, so that bringing one only puts its patches into its weights."""
from types import SimpleNamespace

import torch

current_loaded_models = []
"""What was brought, by its patcher."""


def load_models_gpu(patchers):
    for patcher in patchers:
        current_loaded_models[:] = [entry for entry in current_loaded_models if entry.model.model is not patcher.model]
        current_loaded_models.insert(0, SimpleNamespace(model=patcher))
        parameters, backup = dict(patcher.model.named_parameters()), vars(patcher.model).setdefault("backup", {})
        with torch.no_grad():
            for key, value in backup.items():
                parameters[key].copy_(value)
            backup.clear()
            for key, patches in patcher.patches.items():
                backup[key] = parameters[key].clone()
                for value in patches:
                    parameters[key].add_(value)
