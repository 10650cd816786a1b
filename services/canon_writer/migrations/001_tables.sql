-- The canon's tables. Before the code. Run as canon_owner, who owns the database; canon_writer and canon_reader exist already.
--
-- Columns are ordered by alignment, key ids, record ids and thing digests are 16 bytes and stored as uuid, and indexes that end in
-- seq >> 12 hold many rows a key, so that B-tree deduplication makes them about ten bytes a row: what a record costs beyond its
-- header and payload is counted in bytes here.

do $$
begin
    if (select count(*) from pg_roles where rolname in ('canon_writer', 'canon_reader')) <> 2 then
        raise exception 'the roles canon_writer and canon_reader are missing: make them first (deploy/postgres/roles.sql)';
    end if;
end
$$;

create schema canon;

-- One row a record, for ever. `hash` covers tenant and id, so unique (tenant, id) makes it unique without an index of its own for that.
--
-- `header` is what the other columns don't tell of the sealed header (`packing.py` puts the very bytes together again); `header_bytes` how
-- long those are. `payload` is sealed, with its salt, by the data key that `data_key` names. `decision` stands in the first record that
-- used a decision: the seq of the decision's batch << 8 | its index there, unique, so that nothing is admitted by it twice.
create table canon.record (
    seq          bigint   not null check (seq >= 0),
    ts           bigint   not null, -- Unix milliseconds, as the author wrote them
    id           uuid     not null,
    author       uuid     not null, -- key id
    thing        uuid,              -- digest of owner, kind and key; null for what isn't a version of a thing
    decision     bigint   check (decision >= 0),
    data_key     bigint   not null,
    header_bytes smallint not null check (header_bytes between 1 and 16384),
    governs      boolean  not null, -- moves the fold that the writer loads at start
    tenant       text     not null,
    space        text     not null check (space in ('user', 'system', 'audit')),
    kind         text     not null,
    subject      text     not null,
    hash         bytea    not null check (octet_length(hash) = 32),
    header       bytea    not null check (octet_length(header) <= 16385),
    payload      bytea    not null,
    primary key (tenant, seq),
    unique (tenant, id)
);
create unique index record_decision on canon.record (decision, tenant) where decision is not null;
create index record_hash on canon.record using hash (hash);
create index record_governing on canon.record (tenant, seq) where governs;
create index record_chain on canon.record (author, (seq >> 12)) where space = 'audit';
create index record_thing on canon.record (thing, seq) where thing is not null;
create index record_subject on canon.record (tenant, subject, (seq >> 12)) where subject <> '';
create index record_kind on canon.record (tenant, kind, (seq >> 12));
-- Neither compresses.
alter table canon.record alter column header set storage external, alter column payload set storage external;

-- What seals payloads, wrapped by a key that never comes here. `id` is random; `purpose` the digest of a thing, or of a space and a day. An
-- erasure destroys a thing's key: the records' rows never change.
create table canon.data_key (
    id         bigint  not null check (id >= 0),
    erased_seq bigint  check (erased_seq > 0),
    purpose    uuid    not null,
    erasable   boolean not null,
    tenant     text    not null,
    wrapped    bytea,
    primary key (tenant, id),
    check ((wrapped is null) = (erased_seq is not null)),
    check (erasable or erased_seq is null)
) with (fillfactor = 80, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
create unique index data_key_in_use on canon.data_key (tenant, purpose) where erased_seq is null;
create index data_key_erased on canon.data_key (tenant, erased_seq) where erased_seq is not null;

-- Full hash tiles of the log (C2SP tlog-tiles): 256 hashes each. Partial ones are derived.
create table canon.tile (
    "index" bigint   not null check ("index" >= 0),
    level   smallint not null check (level between 0 and 63),
    tenant  text     not null,
    hashes  bytea    not null check (octet_length(hashes) = 8192),
    primary key (tenant, level, "index")
);
-- Hashes don't compress.
alter table canon.tile alter column hashes set storage external;

-- The signed note of each commit.
create table canon.checkpoint (
    size   bigint not null check (size > 0),
    tenant text   not null,
    note   bytea  not null,
    primary key (tenant, size)
);

-- Who may write now. Each take-over raises the epoch; a commit under another epoch is refused.
create table canon.writer_epoch (
    tenant  text        primary key,
    epoch   bigint      not null,
    seen_at timestamptz not null
) with (fillfactor = 50);
