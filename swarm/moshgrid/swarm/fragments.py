"""Fragments: a model's parameters divided among the turns in which they are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from moshgrid.p2p import ConfigurationError

__all__ = ["fragments_of"]

Named = dict[str, torch.nn.Parameter]


def fragments_of(
    parameters: Mapping[str, torch.nn.Parameter], fragments: int | Sequence[torch.nn.Module] | None
) -> list[Named]:
    """The named parameters of each fragment.

    ``fragments``: how many (each takes every n-th layer, as Streaming DiLoCo does), or the modules that
    make them up; None for one. Raises ConfigurationError unless every parameter is in exactly one.
    """
    if fragments is None:
        fragments = 1
    if isinstance(fragments, int):
        layers: dict[str, Named] = {}
        for name, parameter in parameters.items():
            layers.setdefault(name.rpartition(".")[0], {})[name] = parameter
        if not 1 <= fragments <= len(layers):
            raise ConfigurationError(
                f"model_fragments must be 1 to {len(layers)}, the model's layers, not {fragments}"
            )
        found: list[Named] = [{} for _ in range(fragments)]
        for index, layer in enumerate(layers.values()):
            found[index % fragments].update(layer)
        return found
    names = {parameter: name for name, parameter in parameters.items()}
    found = []
    for module in fragments:
        mine = {names.pop(p): p for p in module.parameters() if p in names}
        if not mine:
            raise ConfigurationError("a module in model_fragments has no parameters, or only those of others")
        found.append(mine)
    if names:
        raise ConfigurationError(
            f"model_fragments leave out {len(names)} parameters, which would never be averaged: "
            + ", ".join(list(names.values())[:4])
        )
    return found
