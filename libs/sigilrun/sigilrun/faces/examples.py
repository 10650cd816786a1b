"""An example of each command's parameters: the declared one, or its required fields with values that fit.

Everything here is recognisably nobody's: keys of zeros and ones, ids of one moment, tokens of dots. A field whose name isn't in the table
gets a value of its type; a test proves that every example fits, and so says when the table lacks a name.
"""

import base64
from typing import Any

import msgspec

from sigilcore import trust
from sigilcore.contracts.command import Command

ID = "01890a5d-ac96-774b-bcce-b302099a8057"

_VALUES: dict[str, Any] = {
    "bias": trust.DEFAULT_MODEL.bias,
    "command": "memory/write",
    "core": '{"kind":"note"}',
    "id": ID,
    "key": "greeting",
    "key_id": "00" * 16,
    "kind": "model_config",
    "license": '[license]\nid = "…"\n\n[seal]\nalg = "ed25519"\n',
    "license_id": ID,
    "nonce": "…",
    "old": 1,
    "owner_id": "ada",
    "owner_name": "Ada",
    "parameters": '{"key":"greeting","text":"Say good morning."}',
    "path": "tile/0/000",
    "peer": "library",
    "payload": "{}",
    "proposal_id": ID,
    "root_key": "01" * 32,
    "salt": "00" * 16,
    "session": "…",
    "sig": base64.b64encode(bytes(64)).decode(),
    "signature": base64.b64encode(bytes(64)).decode(),
    "target": ID,
    "threshold": trust.DEFAULT_MODEL.threshold,
    "token": "…",
    "version": "2",
    "weights": msgspec.to_builtins(trust.DEFAULT_MODEL.weights),
    "witness_id": "grace",
}


def request(command: Command[Any, Any]) -> dict[str, Any]:
    """Parameters that fit the command's Struct."""
    return command.example or _required(command.request)


def _required(struct: type[Any]) -> dict[str, Any]:
    return {field.encode_name: _value(field) for field in msgspec.structs.fields(struct) if field.required}


def _value(field: msgspec.structs.FieldInfo) -> Any:
    kind = msgspec.inspect.type_info(field.type)
    if field.name in _VALUES and not isinstance(kind, msgspec.inspect.DictType):
        return _VALUES[field.name]
    return _of(kind)


def _of(kind: msgspec.inspect.Type) -> Any:
    """A small value of a type."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _of(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return _of(kind.types[0])
    if isinstance(kind, msgspec.inspect.StructType):
        return _required(kind.cls)
    if isinstance(kind, msgspec.inspect.EnumType):
        return next(iter(kind.cls)).value
    if isinstance(kind, msgspec.inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, msgspec.inspect.IntType):
        return max(kind.ge or 0, 1)
    if isinstance(kind, msgspec.inspect.BoolType):
        return True
    if isinstance(kind, msgspec.inspect.StrType):
        return "…" * max(kind.min_length or 0, 1)
    if isinstance(kind, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
        return [_of(kind.item_type)] * (kind.min_length or 0)
    return {} if isinstance(kind, msgspec.inspect.DictType) else None
