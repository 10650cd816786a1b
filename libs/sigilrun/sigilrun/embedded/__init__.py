"""The embedded stack: nats-server, Postgres and every service as processes of one supervisor."""
