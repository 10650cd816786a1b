"""Libraries that other libraries import in case somebody wants what they do with them. Nobody does here, and each service is a process of
its own: they would cost each of them a tenth of a second at its start and ten megabytes for as long as it runs."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Inside, the library isn't there for who imports it, unless somebody had it before; afterwards it can be imported as ever."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails, says the language's reference (5.3.1)
    try:
        yield
    finally:
        del sys.modules[name]
