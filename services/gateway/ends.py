"""Logout everywhere: what the change stream says has ended, the gateway forgets at once.

It hears two kinds of change event and no others. They are hints: at worst somebody logs in again, and one that gets lost leaves a cookie
whose every call the gate refuses, after which it is forgotten too (`calls`). So nothing here needs the log's own proof.
"""

import msgspec

from services.gateway import limits, sessions
from sigilcore import record, records
from sigilcore.contracts import house
from sigilcore.records import audit
from sigilcore.refusals import Refused
from sigilrun import telemetry, wire
from sigilrun.bus import Bus

KINDS = house.RESIDENTS["gateway"].hears


class Ends:
    """Forgets sessions as they end."""

    def __init__(self, cookies: sessions.Cookies, known: limits.Known) -> None:
        """Who forgets."""
        self._cookies = cookies
        self._known = known

    async def hear(self, bus: Bus, tenant: str) -> None:
        """Listen for as long as the connection lives; a reconnection listens again by itself."""
        for kind in KINDS:
            await bus.subscribe(house.event_subject(tenant, records.REGISTRY[kind].space, kind), self._heard)
        await bus.flush()

    def _heard(self, message: wire.Message) -> None:
        try:
            said = record.check(msgspec.json.decode(message.data, type=record.PlacedRecord).signed()).payload
        except (msgspec.DecodeError, UnicodeDecodeError, Refused) as error:
            telemetry.log.warning("event_unreadable", reason=type(error).__name__)
            return
        if isinstance(said, audit.LicenceRevoked):
            self._cookies.end_licence(said.license_id)
            self._known.end_licence(said.license_id)
        elif isinstance(said, audit.SessionClosed):
            self._cookies.end_session(said.session_id)
