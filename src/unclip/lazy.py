"""Names of what is imported when it is first used, so that tables of it cost nothing to look at."""

from importlib import import_module
from typing import Any


def imported(reference: Any) -> Any:
    """What "module:name" names; anything else is returned as it is."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
