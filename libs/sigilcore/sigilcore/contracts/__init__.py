"""Everything that crosses the bus, declared once.

A command is one constant: its Structs, the service that answers, its rung, what it writes and refuses. From these constants come the bus
endpoints and permissions, the typed client, the HTTP routes, OpenAPI and the CLI verbs. One file a service; `catalogue` collects them
and refuses clashes at import; `house` says which service may publish what.
"""
