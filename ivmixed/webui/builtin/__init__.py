"""Built-in motion: a request becomes one clip, with a motion module of ours in the UNet."""
