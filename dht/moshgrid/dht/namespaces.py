"""Namespaces: whose rules a key's values follow, beside the rules that hold for every record.

A key's namespace is what stands before its first ``/``. Keys without one are free for everybody, and so
are ``services/…`` and what moshgrid's averaging keeps under ``avg/…``. A storer refuses every other
namespace until its owner registers a validator for it, or opens it explicitly.
"""

from __future__ import annotations

from typing import Protocol

from moshgrid.dht.record import MAX_TTL_MS, MAX_VALUE, SignedRecord, check_times
from moshgrid.dht.values import Record, view
from moshgrid.p2p.errors import ConfigurationError, RecordRejected

__all__ = ["OPEN_FROM_THE_START", "Namespaces", "Validator"]

OPEN_FROM_THE_START = ("", "services", "avg")


class Validator(Protocol):
    """The rules of one namespace. Ownership, times, form, signature and merge are not among them."""

    @property
    def namespace(self) -> str:
        """What stands before the first ``/`` of the keys this is for; empty for keys without one."""
        ...

    @property
    def max_ttl_ms(self) -> int:
        """The longest life of a record, at most an hour."""
        ...

    @property
    def max_value(self) -> int:
        """The most bytes of an encoded value, at most 1,024."""
        ...

    def validate(self, record: Record, now_ms: int) -> None:
        """Raises RecordRejected, or anything else, when the value is not what the namespace holds.

        Must depend on its arguments only, or storers will not agree. Deletions are not asked about.
        """
        ...


class Namespaces:
    """Which namespaces this node holds records of, and their rules."""

    def __init__(self) -> None:
        self._open = set(OPEN_FROM_THE_START)
        self._validators: dict[str, Validator] = {}

    def register(self, validator: Validator) -> None:
        """Takes records of the validator's namespace, if it lets them pass; replaces an earlier one."""
        name = _checked(validator.namespace)
        if not 1 <= validator.max_ttl_ms <= MAX_TTL_MS or not 1 <= validator.max_value <= MAX_VALUE:
            raise ConfigurationError(
                f"a validator allows 1 to {MAX_TTL_MS} ms of life and values of 1 to {MAX_VALUE} bytes, not "
                f"max_ttl_ms={validator.max_ttl_ms!r} and max_value={validator.max_value!r}"
            )
        self._validators[name] = validator

    def open(self, namespace: str) -> None:
        """Takes any value under ``namespace``."""
        self._open.add(_checked(namespace))

    def check(self, record: SignedRecord, now_ms: int) -> None:
        """Raises RecordRejected when this node must not hold ``record``: the time codes or SCHEMA."""
        name = _namespace_of(record)
        if name not in self._validators and name not in self._open:
            raise RecordRejected(
                "SCHEMA",
                f"the namespace {name!r} is not open here. Keys without a slash and those that begin with "
                f"'services/' are for everybody; for others each storer has to call "
                f"open_namespace({name!r}), or register() a validator of it.",
            )
        self.check_read(record, now_ms)

    def check_read(self, record: SignedRecord, now_ms: int) -> None:
        """Raises RecordRejected when ``record`` breaks a rule known here; an unknown namespace has none."""
        check_times(record, now_ms)
        validator = self._validators.get(_namespace_of(record))
        if validator is None or record.deleted:
            return
        if record.expires - record.seq > validator.max_ttl_ms:
            raise RecordRejected("BAD_TTL", f"records live at most {validator.max_ttl_ms} ms here")
        if len(record.value) > validator.max_value:
            raise RecordRejected("TOO_LARGE", f"values have at most {validator.max_value} bytes here")
        try:
            validator.validate(view(record, lambda: now_ms), now_ms)
        except RecordRejected:
            raise
        except Exception as error:  # user code on a stranger's value: whatever it trips over is a refusal
            raise RecordRejected("SCHEMA", f"{type(error).__name__}: {error}") from error


def _namespace_of(record: SignedRecord) -> str:
    name, slash, _ = record.key.decode().partition("/")
    return name if slash else ""


def _checked(name: str) -> str:
    if not isinstance(name, str) or "/" in name or len(name.encode()) > 64:
        raise ConfigurationError(f"a namespace is text of at most 64 bytes without '/', not {name!r}")
    return name
