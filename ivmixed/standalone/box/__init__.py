"""The bundled model: a small text-to-video model of the make of SD 1.5 and AnimateDiff, and the world it knows.

`scenes` draws that world, `checker` reads a clip of it. ``training/`` in the repository made the model.
"""
from pathlib import Path

MODEL = Path(__file__).with_name("model")
"""The weights, as a diffusers folder of an AnimateDiffPipeline."""

FRAMES = 12
"""Frames of the clips that its motion modules learned from."""

CFG = 4.0
"""The CFG scale that suits it."""
