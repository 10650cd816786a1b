-- name: schema
-- A thing is named by owner, kind and slug; `seq` is its newest version's. Tags are those of the newest version.
create table thing (
    id integer primary key,
    owner text not null,
    kind text not null,
    slug text not null,
    versions integer not null,
    seq integer not null,
    unique (owner, slug, kind)
) strict;
create table version (
    seq integer primary key,
    thing integer not null references thing,
    number integer not null,
    id text not null unique,
    hash text not null,
    ts text not null,
    payload blob not null,
    unique (thing, number)
) strict;
create table tag (
    thing integer not null references thing,
    tag text not null,
    primary key (thing, tag)
) strict, without rowid;
-- The erasures of things; what stood before one is in none of the tables above.
create table erasure (
    seq integer primary key,
    id text not null unique,
    owner text not null,
    kind text not null,
    slug text not null,
    hash text not null,
    versions integer not null
) strict;
create index erasure_thing on erasure (owner, slug, kind, seq);
-- The quorum's orders to erase that weren't carried out.
create table ordered (
    id text primary key,
    seq integer not null,
    owner text not null,
    kind text not null,
    slug text not null,
    until_ms integer not null
) strict;

-- name: add_version
-- A new version of a thing; the first one makes it.
insert into thing (owner, kind, slug, versions, seq) values (?, ?, ?, 1, ?)
on conflict (owner, slug, kind) do update set versions = versions + 1, seq = excluded.seq
returning id, versions;

-- name: add_record
-- The record that holds the version.
insert into version (seq, thing, number, id, hash, ts, payload) values (?, ?, ?, ?, ?, ?, ?);

-- name: clear_tags
-- The newest version has tags of its own, an erased thing none.
delete from tag where thing = ?;

-- name: add_tag
-- A tag that stands twice is one tag.
insert or ignore into tag (thing, tag) values (?, ?);

-- name: head
-- The hash of a thing's newest version, or of its erasure if nothing was written since.
select hash from (
    select version.seq, hash from thing join version using (seq) where owner = :owner and slug = :slug and kind = :kind
    union all
    select seq, hash from erasure where owner = :owner and slug = :slug and kind = :kind
) order by seq desc limit 1;

-- name: versions
-- The record ids of all versions of a thing, in order.
select version.id from thing join version on version.thing = thing.id
where owner = ? and slug = ? and kind = ? order by number;

-- name: find
-- A thing's number, if it has versions.
select id from thing where owner = ? and slug = ? and kind = ?;

-- name: forget_versions
-- An erased thing's versions,
delete from version where thing = ?;

-- name: forget_thing
-- and the thing itself.
delete from thing where id = ?;

-- name: add_erasure
-- What the next version stands on.
insert into erasure (seq, id, owner, kind, slug, hash, versions) values (?, ?, ?, ?, ?, ?, ?);

-- name: add_order
-- An order that nothing has carried out yet.
insert into ordered (seq, id, owner, kind, slug, until_ms) values (?, ?, ?, ?, ?, ?);

-- name: end_order
-- The erasure that it ordered stands.
delete from ordered where id = ?;

-- name: orders
-- What is to be carried out, the oldest first.
select id, owner, kind, slug from ordered where until_ms > ? order by seq;

-- name: erasure
-- An erasure by its record's id.
select owner, kind, slug, versions from erasure where id = ?;

-- name: known
-- The record of this id, if there is one.
select 1 from version where id = :id union all select 1 from erasure where id = :id;

-- name: by_id
-- A version by its record's id.
select owner, kind, slug, number, version.seq, version.id, hash, ts, payload
from version join thing on thing.id = version.thing where version.id = :id;

-- name: by_number
-- A version by its number; the newest one when none is given.
select owner, kind, slug, number, version.seq, version.id, hash, ts, payload
from thing join version on version.thing = thing.id
where owner = :owner and slug = :slug and kind = :kind and number = ifnull(:number, versions);

-- name: newest
-- The newest versions of an owner's things in order of slug and kind, after a place in that order.
select owner, kind, slug, number, version.seq, version.id, hash, ts, payload
from thing join version using (seq)
where owner = :owner and (slug, kind) > (:after_slug, :after_kind)
  and slug >= :prefix and slug < :prefix || char(1114111)
  and (:kind is null or kind = :kind)
  and ts >= :since and ts < :until
  and (:tag is null or exists (select 1 from tag where tag.thing = thing.id and tag.tag = :tag))
order by slug, kind;

-- name: content
-- Everything, in order of seq, for the digest.
select owner, kind, slug, number, version.seq, version.id, hash, ts, payload
from version join thing on thing.id = version.thing order by version.seq;
