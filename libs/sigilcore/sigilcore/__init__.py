"""What Sigil thinks: bytes, records, gate, quorum, tree and verification. Pure; imports nothing that talks."""
