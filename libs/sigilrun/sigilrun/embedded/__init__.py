"""The embedded stack: nats-server, Postgres and every service as processes of one supervisor.

This room is given a list of processes and knows none of them. From the floor up:

- `errors`      what it refuses, and why;
- `folder`      the data folder: its layout, its lock, its run.json;
- `ports`       which loopback ports a data folder keeps;
- `binaries`    where nats-server and Postgres come from;
- `child`       the few lines that run inside every new process before it becomes the program;
- `spawn`       one process: started, watched, ended;
- `supervisor`  many processes: order, readiness, restarts, an orderly end;
- `nats`, `postgres`  how the two servers are configured, prepared and asked whether they are ready;
- `stack`       all of it in one call.
"""
