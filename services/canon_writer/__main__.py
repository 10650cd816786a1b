"""Run the writer."""

from services.canon_writer import service
from sigilrun import service as process

if __name__ == "__main__":
    process.run("canon_writer", service.build, service.HANDLERS)
