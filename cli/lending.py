"""What Root signs for peers, on Root's own side: grants. The server carries, records and lists them; it never makes one."""

import msgspec

from cli.refusal import Refusal
from sigilcore import clock, grant, signing
from sigilcore.contracts import grid
from sigilrun import http


class Lent(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that was signed and issued: the token goes to the peer's people."""

    grant: str
    placed: grid.GrantPlaced


async def peer(client: http.Client, name: str) -> grid.PeerView:
    """A peer as the log knows it."""
    cursor: str | None = None
    while True:
        page = await client.call(grid.PEER_LIST, grid.ListPeers(cursor=cursor, limit=500))
        for view in page.items:
            if view.peer == name:
                return view
        if page.cursor is None:
            raise Refusal(f"no peer {name!r} is enrolled here", "See sigil grid peer list.")
        cursor = page.cursor


async def lend(
    client: http.Client,
    root: signing.Signer,
    to: grid.PeerView,
    capabilities: tuple[str, ...],
    *,
    expires_at_ms: int | None,
) -> Lent:
    """Sign a grant with Root's key, of the next epoch, and issue it."""
    said = grant.CapabilityGrant(
        grantee=to.peer,
        grantee_key=to.key,
        capabilities=capabilities,
        granted_in=to.mesh,
        issued_at_ms=clock.SystemClock().now_ms(),
        expires_at_ms=expires_at_ms,
        epoch=to.next_epoch,
        issuer=root.public_key.hex(),
    )
    token = grant.sign(root, said)
    placed = await client.call(grid.GRANT_ISSUE, grid.IssueGrant(grant=token))
    return Lent(grant=token, placed=placed)
