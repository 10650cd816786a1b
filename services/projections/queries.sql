-- name: schema
-- Headers and links of all records; the payload is in the canon. `subject` comes from the payload and is empty where that was erased.
create table record (
    seq integer primary key,
    id text not null,
    space text not null,
    kind text not null,
    subject text not null,
    ts text not null,
    hash text not null,
    key_id text not null
) strict;
create index record_user on record (id) where space = 'user';
create table link (
    seq integer not null references record,
    ordinal integer not null,
    label text not null,
    target text not null,
    primary key (seq, ordinal)
) strict, without rowid;
create index link_target on link (target, seq, ordinal);
create table tally (
    space text not null,
    kind text not null,
    records integer not null,
    primary key (space, kind)
) strict, without rowid;
create table content (
    only_row integer primary key check (only_row = 1),
    records integer not null,
    links integer not null,
    digest blob not null
) strict;

-- name: add_record
-- One record.
insert into record (seq, id, space, kind, subject, ts, hash, key_id) values (?, ?, ?, ?, ?, ?, ?, ?);

-- name: forget_subject
-- Whose record it is stood in a payload that was erased.
update record set subject = '' where space = 'user' and id = ?;

-- name: add_link
-- One of its links.
insert into link (seq, ordinal, label, target) values (?, ?, ?, ?);

-- name: add_tally
-- So many more of a kind.
insert into tally (space, kind, records) values (?, ?, ?)
on conflict (space, kind) do update set records = records + excluded.records;

-- name: set_content
-- Counts and digest after a batch.
insert or replace into content (only_row, records, links, digest) values (1, ?, ?, ?);

-- name: content
-- Counts and digest now.
select records, links, digest from content;

-- name: tally
-- Records by space and kind.
select space, kind, records from tally order by space, kind;

-- name: links_to
-- Who links to a target, in order, after a place in that order; another's user records aren't there, nor whose owner was erased.
select record.seq, ordinal, id, kind, label, target
from link join record using (seq)
where target = :target and (seq, ordinal) > (:after_seq, :after_ordinal)
    and (:reader is null or space <> 'user' or subject = :reader)
order by seq, ordinal limit :limit;

-- name: everything
-- All rows below a position in order of seq, each with one of its links, if it has any.
select record.seq, id, space, kind, ts, hash, key_id, subject, label, target
from record left join link using (seq)
where record.seq < :end order by record.seq, ordinal;
