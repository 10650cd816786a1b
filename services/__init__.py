"""The services: each decides one thing, and none imports another."""
