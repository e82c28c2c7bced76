"""Names of weights: the authors' to ours, by a table that every name must be in."""

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def rename_keys(official: Mapping[str, Value], table: Mapping[str, str | None]) -> dict[str, Value]:
    r"""The entries of a state dict under our names.

    Args:
        official: by the authors' names.
        table: regular expression for the beginning of a name -> what replaces that beginning
            (``\1`` stands for its first group); None drops the entry. The first that fits counts.

    Raises:
        ValueError: naming the first entry that is not in the table, or two that become one.
    """
    rules = [(re.compile(pattern), ours) for pattern, ours in table.items()]
    renamed: dict[str, Value] = {}
    for name, value in official.items():
        match, ours = next(
            ((found, new) for pattern, new in rules if (found := pattern.match(name))), (None, None)
        )
        if match is None:
            raise ValueError(
                f"weight {name!r} has no place here: is this the checkpoint of another method?"
            )
        if ours is None:
            continue
        new_name = match.expand(ours) + name[match.end() :]
        if new_name in renamed:
            raise ValueError(f"weight {name!r} and another both become {new_name!r}")
        renamed[new_name] = value
    return renamed
