"""Loaded by the WebUI: the sampler, built-in motion, and their scripts."""
from ivmixed.webui.register import register
from ivmixed.webui.script import IVMixedScript, MotionScript  # noqa: F401  the host looks for them here

register()
