"""Which codec for which tensor: by size and role. A pure function, so that all members choose alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moshgrid.compression.registry import get_codec

__all__ = ["CodecPlan"]


@dataclass(frozen=True)
class CodecPlan:
    """Large tensors travel as ``large``, those of fewer than ``small_below`` elements as ``small``.

    Biases and norms are small, cost little and matter much. ``roles``, one name per tensor, and
    ``by_role`` decide before the size does; a role that ``by_role`` does not name is left to the size.
    """

    large: str = "int8"
    small: str = "float16"
    small_below: int = 4096
    roles: Sequence[str] = ()
    by_role: Mapping[str, str] = field(default_factory=dict)

    def choose(self, sizes: Sequence[int]) -> tuple[str, ...]:
        """The codec's name for each tensor, given how many elements each has.

        Raises KeyError for a codec that there is not, ValueError when roles do not fit the tensors.
        """
        if self.roles and len(self.roles) != len(sizes):
            raise ValueError(f"{len(self.roles)} roles cannot be for {len(sizes)} tensors")
        if unused := set(self.by_role) - set(self.roles):
            raise ValueError(f"no tensor has the role {', '.join(sorted(unused))}")
        for name in (self.large, self.small, *self.by_role.values()):
            get_codec(name)
        by_size = [self.small if size < self.small_below else self.large for size in sizes]
        roles = self.roles or [""] * len(sizes)
        return tuple(self.by_role.get(role, name) for role, name in zip(roles, by_size, strict=True))
