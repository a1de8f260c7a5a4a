"""``<kind:name:weight>`` in prompts."""
import re
from collections import defaultdict
from types import SimpleNamespace

extra_network_registry = {}


def parse_prompt(prompt):
    found = defaultdict(list)

    def note(match):
        found[match[1]].append(SimpleNamespace(positional=match[2].split(":")))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", note, prompt), found


def activate(p, data):
    for kind, network in extra_network_registry.items():
        network.activate(p, data.get(kind, []))
