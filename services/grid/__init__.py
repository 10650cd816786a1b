"""Knows the other nodes: who may call here, what was lent to them, and calls to them with what they lent."""
