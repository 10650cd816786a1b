"""The license service: one Root, and the life of every licence."""
