"""Attestation: a reducer's signature over the digests of the results it made, up to 16 at a time.

Members check it against the bytes they got, so that a reducer that tells different things to
different members leaves a signed proof.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from moshgrid.averaging.messages import Attested

__all__ = ["Attestation"]

_AT_ONCE = 16


class Attestation:
    """What this member has to sign, and what others sent it."""

    def __init__(
        self, group_id: bytes, sign: Callable[[bytes], bytes], verify: Callable[[int, bytes, bytes], bool]
    ) -> None:
        self._group_id = group_id
        self._sign = sign
        self._verify = verify
        self._unsigned: list[tuple[int, bytes]] = []
        self._sent_by: dict[int, dict[int, bytes]] = {}

    def made(self, part: int, digest: bytes) -> None:
        """This member averaged a part."""
        self._unsigned.append((part, digest))

    def got(self, member: int, part: int, digest: bytes) -> None:
        """``member`` sent a result."""
        self._sent_by.setdefault(member, {})[part] = digest

    def due(self, flush: bool) -> list[Attested]:
        """Signed lists to send to everybody: full ones, with ``flush`` also the rest."""
        lists = []
        while len(self._unsigned) >= _AT_ONCE or (flush and self._unsigned):
            batch, self._unsigned = self._unsigned[:_AT_ONCE], self._unsigned[_AT_ONCE:]
            parts, digests = tuple(part for part, _ in batch), tuple(digest for _, digest in batch)
            lists.append(Attested(parts, digests, self._sign(self._signed_bytes(parts, digests))))
        return lists

    def fault(self, member: int, message: Attested) -> str | None:
        """What is wrong with a signed list of ``member``, or None."""
        if len(message.parts) != len(message.digests) or len(message.parts) > _AT_ONCE:
            return "sent a malformed list of results"
        if any(not 0 <= part < 2**32 for part in message.parts):
            return "signed parts that do not exist"
        signed = self._signed_bytes(message.parts, message.digests)
        if not self._verify(member, message.signature, signed):
            return "signed its results wrongly"
        sent = self._sent_by.get(member, {})
        for part, digest in zip(message.parts, message.digests, strict=True):
            if sent.get(part, digest) != digest:
                return f"sent another result of part {part} than it signed"
        return None

    def _signed_bytes(self, parts: tuple[int, ...], digests: tuple[bytes, ...]) -> bytes:
        named = b"".join(
            part.to_bytes(4, "big") + digest for part, digest in zip(parts, digests, strict=True)
        )
        return b"moshgrid-results\x00" + blake3(self._group_id + named).digest()
