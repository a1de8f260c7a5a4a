"""Loaded by the WebUI: the sampler and its script."""
from ivmixed.webui import a1111
from ivmixed.webui.script import IVMixedScript  # noqa: F401  the host looks for it here

a1111.register()
