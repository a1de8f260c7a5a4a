"""Where tensors live. Host memory has a name of its own here, so that a hint left in it is noticed without a GPU."""
import torch

cpu = "host memory"
device = torch.device("cpu")
dtype_unet = torch.float32


def get_device_for(task):
    return device


def torch_gc():
    """Nothing to free."""
