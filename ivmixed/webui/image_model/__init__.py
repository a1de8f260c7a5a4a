"""The image model's conds, checkpoint and weights."""
