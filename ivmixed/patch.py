"""Changes to objects that are not ours, a host's or a network's, that undo themselves."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """``target.name = value`` within the block; afterwards as before, also after errors and interrupts.

    What was only inherited (a method of the class, say) is inherited again.
    """
    on_class = getattr(type(target), name, None)
    inherited = name not in vars(target) and on_class is not None and not isinstance(on_class, property)
    before = getattr(target, name)
    try:
        setattr(target, name, value)
        yield
    finally:
        if inherited:
            vars(target).pop(name, None)
        else:
            setattr(target, name, before)


class Overlay:
    """An object seen through: everything of ``target`` but the attributes given here."""

    def __init__(self, target: Any, **attributes: Any):
        self._target = target
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
