"""The extension for the Stable Diffusion WebUI: all that imports the host's ``modules``.

`a1111` is the sampler in AUTOMATIC1111, `animatediff` and `controlnet` are what it knows of those extensions, `panel`
is the page, `script` the hooks, `patch` how the host is changed and put back.
"""
import logging

NAME = "IV-mixed"
"""The sampler's and the script's name, in the dropdowns, the API and the infotext."""

log = logging.getLogger("ivmixed")
"""One line here for whatever a user should know: the hosts show warnings only, so it has a handler of its own."""

if not log.handlers:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"[{NAME}] %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
