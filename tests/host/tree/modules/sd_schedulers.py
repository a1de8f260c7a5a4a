"""The schedule types of the dropdown."""
from types import SimpleNamespace

from k_diffusion.sampling import get_sigmas_karras

schedulers = [
    SimpleNamespace(name="automatic", label="Automatic", aliases=None, function=None),
    SimpleNamespace(name="karras", label="Karras", aliases=None, function=get_sigmas_karras),
]
schedulers_map = {**{x.name: x for x in schedulers}, **{x.label: x for x in schedulers}}
