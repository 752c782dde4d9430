"""A peer-to-peer node: identity, encrypted streams, typed requests. Built on py-libp2p."""

from moshgrid.p2p.async_node import AsyncNode
from moshgrid.p2p.errors import (
    AccessDenied,
    Closed,
    ConfigurationError,
    LocalProtocolError,
    MoshgridError,
    RecordRejected,
    RemoteProtocolError,
    SchemaMismatch,
    StreamReset,
    Unreachable,
)
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.link import Link
from moshgrid.p2p.node import Node

__all__ = [
    "AccessDenied",
    "AsyncNode",
    "Closed",
    "ConfigurationError",
    "Identity",
    "Link",
    "LocalProtocolError",
    "MoshgridError",
    "Node",
    "PeerId",
    "RecordRejected",
    "RemoteProtocolError",
    "SchemaMismatch",
    "StreamReset",
    "Unreachable",
]
