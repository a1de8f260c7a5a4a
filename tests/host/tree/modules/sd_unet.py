"""Another UNet in the place of the checkpoint's own (TensorRT)."""
current_unet = None
