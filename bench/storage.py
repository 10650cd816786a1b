"""What a record costs on disk beyond its header and its payload, and where it lies."""

import asyncpg

from bench.figures import Figure

_PARTS = ("rows", "indexes", "tiles", "checkpoints", "data keys")


async def sizes(connection: asyncpg.Connection) -> dict[str, float]:
    """Bytes by part, and how many records, header and payload bytes they hold."""
    await connection.execute("vacuum analyze canon.record")
    rows = await connection.fetch(
        "select c.relname, c.relkind = 'i' as is_index, pg_total_relation_size(c.oid) as size"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'canon' and c.relkind in ('r', 'i')"
    )
    records, header, stored, payload = await connection.fetchrow(
        "select count(*), sum(header_bytes), sum(octet_length(header)), sum(octet_length(payload) - 44) from canon.record"
    )
    sizes = {row["relname"]: float(row["size"]) for row in rows}
    tables = {row["relname"]: float(row["size"]) for row in rows if not row["is_index"]}
    on_record = sum(size for name, size in sizes.items() if name.startswith("record_"))
    return {
        "records": records,
        "header": float(header),
        "stored header": float(stored),
        "payload": float(payload),
        "all": sum(tables.values()),
        "rows": sizes["record"] - on_record,
        "indexes": on_record,
        "tiles": tables["tile"],
        "checkpoints": tables["checkpoint"],
        "data keys": tables["data_key"],
    }


def figure(what: str, part: dict[str, float]) -> Figure:
    """One row of the page. A header counts as long as it is, however it is stored."""
    records = part["records"]
    beyond = (part["all"] - part["header"] - part["payload"]) / records
    parts = ", ".join(f"{name} {part[name] / records:.0f}" for name in _PARTS)
    return Figure(
        what=f"storage beyond header and payload: {what} ({records:,.0f} records)",
        value=f"{beyond:.0f} B a record",
        limit="aim 320 B",
        ratio=f"{beyond / 320:.2f}×",
        bound=f"on disk a record {parts}; that holds its header of {part['header'] / records:.0f} B"
        f" (stored in {part['stored header'] / records:.0f} B) and its payload of {part['payload'] / records:.0f} B",
    )
