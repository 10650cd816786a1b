"""The `sigil` command."""
