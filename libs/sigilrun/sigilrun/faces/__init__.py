"""Faces derived from the command declarations."""
