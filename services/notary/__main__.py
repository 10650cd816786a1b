"""Run the notary."""

from services.notary import service
from sigilrun import service as process

if __name__ == "__main__":
    process.run("notary", service.build, service.HANDLERS)
