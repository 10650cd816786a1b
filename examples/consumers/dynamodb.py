"""Records and links in one DynamoDB table: `python dynamodb.py --account FOLDER --table NAME [--endpoint URL]`

| item | pk | sk | found by the index |
|---|---|---|---|
| a record | `record#<id>` | `record` | `by_kind`: kind, seq |
| a link of it | `record#<id>` | `link#<ordinal>` | `by_target`: target, seq |
| the position | `position` | `position` | |

A transaction of DynamoDB takes 100 items, so a batch of events becomes several. Each moves the position on the condition that it is where
this process last saw it: a crash leaves a whole prefix, a second process that writes finds its condition broken and reads again, and
what was written by a call whose answer was lost is seen by the position and not written twice. Payloads over 256 KiB stay in the canon.

An erasure may name more records than a transaction takes. It begins one, and before that is written the payloads are taken out one by
one: a crash in between repeats them, and the position never stands behind an erasure that wasn't carried out.
"""

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3

from sigilcore import merkle
from sigilrun import consume, outside

ITEMS_MOST, BYTES_MOST, PAYLOAD_MOST = 100, 3_000_000, 256 * 1024
ERASURE = "erasure"
POSITION = {"pk": {"S": "position"}, "sk": {"S": "position"}}
TABLE: dict[str, Any] = {
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "AttributeDefinitions": [
        *({"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "kind", "target")),
        {"AttributeName": "seq", "AttributeType": "N"},
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": f"by_{name}",
            "KeySchema": [{"AttributeName": name, "KeyType": "HASH"}, {"AttributeName": "seq", "KeyType": "RANGE"}],
            "Projection": {"ProjectionType": "ALL"},
        }
        for name in ("kind", "target")
    ],
    "BillingMode": "PAY_PER_REQUEST",
}


class DynamoView:
    """`consume.View` over one table. The client blocks, so it works in a thread."""

    name = "dynamodb"

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    async def prepare(self) -> None:
        """Make the table."""
        if self._table not in self._client.list_tables()["TableNames"]:
            self._client.create_table(TableName=self._table, **TABLE)
        self._client.get_waiter("table_exists").wait(TableName=self._table)

    async def position(self) -> consume.Position:
        """Where to go on."""
        found = await asyncio.to_thread(self._client.get_item, TableName=self._table, Key=POSITION, ConsistentRead=True)
        if "Item" not in found:
            return consume.START
        item = found["Item"]
        return consume.Position(next_seq=int(item["next_seq"]["N"]), frontier=item["frontier"]["B"])

    async def apply(self, events: Sequence[consume.Event], position: consume.Position) -> None:
        """The events in as few transactions as they fit, each with the position after it."""
        at = await self.position()
        new = [event for event in events if event.seq >= at.next_seq]
        for chunk in _chunks(new):
            if chunk[0].kind == ERASURE:
                await asyncio.to_thread(self._erase, chunk[0].typed().records)
            last = chunk[-1] is new[-1]
            after = position if last else _after(at, chunk, checks_tree=bool(position.frontier))
            await self._write(chunk, at, after)
            at = after
        if at.next_seq < position.next_seq:
            await self._write((), at, position)

    def _erase(self, names: Sequence[str]) -> None:
        """Take out the payloads of these records, of those that are here."""
        for name in names:
            with contextlib.suppress(self._client.exceptions.ConditionalCheckFailedException):
                self._client.update_item(
                    TableName=self._table,
                    Key={"pk": {"S": f"record#{name}"}, "sk": {"S": "record"}},
                    UpdateExpression="remove payload",
                    ConditionExpression="attribute_exists(pk)",
                )

    async def _write(self, events: Sequence[consume.Event], before: consume.Position, after: consume.Position) -> None:
        puts = [{"Put": {"TableName": self._table, "Item": item}} for event in events for item in _items(event)]
        start = before.next_seq == 0
        moved: dict[str, Any] = {
            "TableName": self._table,
            "Item": {**POSITION, "next_seq": {"N": str(after.next_seq)}, "frontier": {"B": after.frontier}},
            "ConditionExpression": "attribute_not_exists(pk)" if start else "next_seq = :before",
        }
        if not start:
            moved["ExpressionAttributeValues"] = {":before": {"N": str(before.next_seq)}}
        # The commit point. If the condition is broken, somebody else moved: it is raised, and the position is asked for again.
        await asyncio.to_thread(self._client.transact_write_items, TransactItems=[*puts, {"Put": moved}])


def _after(before: consume.Position, events: Sequence[consume.Event], *, checks_tree: bool) -> consume.Position:
    """The position after some of a batch: the tree's frontier is recomputed, where there is one."""
    frontier = b""
    if checks_tree:
        leaves = [merkle.leaf_hash(event.leaf) for event in events]
        frontier = merkle.Frontier.from_bytes(before.frontier).extend(leaves).to_bytes()
    return consume.Position(next_seq=events[-1].seq + 1, frontier=frontier)


def _chunks(events: Sequence[consume.Event]) -> Iterator[list[consume.Event]]:
    """Runs of events that fit into a transaction beside the position; one event always does. An erasure is the first of its run."""
    chunk: list[consume.Event] = []
    items, size = 0, 0
    for event in events:
        more, bytes_more = (
            1 + len(event.header.core.links),
            len(event.leaf) + min(len(event.payload or b""), PAYLOAD_MOST),
        )
        full = items + more >= ITEMS_MOST or size + bytes_more > BYTES_MOST
        if chunk and (full or event.kind == ERASURE):
            yield chunk
            chunk, items, size = [], 0, 0
        chunk.append(event)
        items, size = items + more, size + bytes_more
    if chunk:
        yield chunk


def _items(event: consume.Event) -> Iterator[dict[str, Any]]:
    core = event.header.core
    key, seq = {"S": f"record#{core.id}"}, {"N": str(event.seq)}
    record: dict[str, Any] = {"pk": key, "sk": {"S": "record"}, "seq": seq, "ts": {"S": core.ts}}
    record |= {"kind": {"S": core.kind}, "space": {"S": core.space}, "hash": {"S": event.header.hash}}
    if event.payload is not None and len(event.payload) <= PAYLOAD_MOST:
        record["payload"] = {"S": event.payload.decode()}
    yield record
    for ordinal, link in enumerate(core.links):
        where = {"pk": key, "sk": {"S": f"link#{ordinal:02}"}, "seq": seq}
        yield where | {"label": {"S": link.label}, "target": {"S": link.target}}


async def main(account: Path, table: str, endpoint: str | None) -> None:
    """Read until SIGTERM or Ctrl-C; start again at any time."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    region = os.environ.get("AWS_DEFAULT_REGION", "eu-central-1")
    view = DynamoView(boto3.client("dynamodb", endpoint_url=endpoint, region_name=region), table)
    await view.prepare()
    await outside.consume(account, view, stop=stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--account", type=Path, required=True, help="the folder that sigil consumer issue made")
    parser.add_argument("--table", required=True, help="the table; made if it isn't there")
    parser.add_argument("--endpoint", help="DynamoDB's address, if it isn't AWS's own")
    given = parser.parse_args()
    asyncio.run(main(given.account, given.table, given.endpoint))
