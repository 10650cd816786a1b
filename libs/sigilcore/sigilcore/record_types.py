"""Texts of fixed shape that several documents share."""

from typing import Annotated

import msgspec

Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Signature = Annotated[str, msgspec.Meta(min_length=88, max_length=88, description="Ed25519 signature, standard base64")]
Timestamp = Annotated[str, msgspec.Meta(min_length=24, max_length=24, description="RFC 3339, UTC, milliseconds, Z")]
RecordId = Annotated[str, msgspec.Meta(min_length=36, max_length=36, description="UUIDv7")]
PublicKey = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z", description="raw Ed25519 public key, hex")]
KindTag = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9_]{1,32}\Z", description="a kind's tag")]
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}\Z")]
