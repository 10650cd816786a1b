"""What Sigil says to the outside: NATS, Postgres, HTTP, key files, processes."""
