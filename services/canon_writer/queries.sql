-- name: lock
-- Try to be the one writer of this tenant; held until the connection ends.
select pg_try_advisory_lock(hashtextextended('sigil canon_writer ' || $1, 0));

-- name: seconds_unseen
-- For how long the writer that holds the lock hasn't been seen alive; null if there never was one.
select extract(epoch from clock_timestamp() - seen_at)::float8 from canon.writer_epoch where tenant = $1;

-- name: terminate_holder
-- End the backend that holds the lock. The epoch keeps it out even if it wakes before it ends.
select pg_terminate_backend(pid, 2000)
from pg_locks, (select hashtextextended('sigil canon_writer ' || $1, 0) as key) as wanted
where locktype = 'advisory' and granted and pid <> pg_backend_pid() and objsubid = 1
  and database = (select oid from pg_database where datname = current_database())
  and classid::bigint = (key >> 32) & 4294967295 and objid::bigint = key & 4294967295;

-- name: raise_epoch
-- From here on no older writer can commit.
select canon.raise_epoch($1);

-- name: epoch
-- The epoch now; null if there never was a writer.
select epoch from canon.writer_epoch where tenant = $1;

-- name: seen
-- Say that the writer of this epoch lives; no row if its time is over.
update canon.writer_epoch set seen_at = clock_timestamp() where tenant = $1 and epoch = $2 returning epoch;

-- name: commit
-- The one commit.
select canon.commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
                          $24, $25, $26, $27, $28);

-- name: head
-- The newest checkpoint; its size is the head.
select size, note from canon.checkpoint where tenant = $1 order by size desc limit 1;

-- name: last_seq
-- The newest row itself, for the start: a checkpoint without its rows would show here.
select max(seq) from canon.record where tenant = $1;

-- name: governing
-- Every row that moves the fold, in order.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from canon.record where tenant = $1 and governs and seq > $2 order by seq limit $3;

-- name: chain_heads
-- The newest audit record of each key. The index holds seq >> 12: first the newest bucket of a key, then the newest row in it.
select wanted.author, newest.hash
from unnest($2::uuid[]) as wanted (author)
cross join lateral (
    select hash
    from canon.record
    where space = 'audit' and author = wanted.author and tenant = $1
      and seq >> 12 = (select max(seq >> 12) from canon.record
                       where space = 'audit' and author = wanted.author and tenant = $1)
    order by seq desc limit 1
) as newest;

-- name: by_ids
-- The rows that these ids name.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from canon.record where tenant = $1 and id = any($2::uuid[]);

-- name: by_hash
-- The row of this record hash.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from canon.record where hash = $2 and tenant = $1;

-- name: used
-- Which of these decisions were used, and by which record first.
select found.*
from unnest($2::bigint[]) as wanted (decision)
cross join lateral (
    select decision, id from canon.record where decision = wanted.decision and tenant = $1 limit 1
) as found;

-- name: greatest_ids
-- The greatest ids that stand; UUIDv7s, so the newest.
select id from canon.record where tenant = $1 order by id desc limit $2;

-- name: look_up
-- Which of these ids stand, and the newest version of each of these things: one question before a commit.
select id as name, null::bytea as hash from canon.record where tenant = $1 and id = any($2::uuid[])
union all
select wanted.thing, newest.hash
from unnest($3::uuid[]) as wanted (thing)
cross join lateral (
    select hash from canon.record where thing = wanted.thing and tenant = $1 order by seq desc limit 1
) as newest;

-- name: live
-- The ids of each thing's versions since its newest erasure, in order.
select wanted.thing, version.id
from unnest($2::uuid[]) as wanted (thing)
cross join lateral (
    select seq, id from canon.record
    where thing = wanted.thing and tenant = $1 and seq > coalesce(
        (select max(seq) from canon.record where thing = wanted.thing and tenant = $1 and kind = 'erasure'), -1)
) as version
order by version.seq;

-- name: erased
-- What the erasures from a place on erased: all that the keys which they destroyed had sealed.
select record.seq, ended.erased_seq as by
from canon.data_key as ended
join canon.record on record.thing = ended.purpose and record.tenant = ended.tenant and record.data_key = ended.id
where ended.tenant = $1 and ended.erased_seq >= $2 order by ended.erased_seq, record.seq;

-- name: keys_in_use
-- The key that seals now for each of these purposes.
select found.*
from unnest($2::uuid[]) as wanted (purpose)
cross join lateral (
    select id, purpose, erasable, wrapped, erased_seq from canon.data_key
    where tenant = $1 and purpose = wanted.purpose and erased_seq is null limit 1
) as found;

-- name: data_keys
-- These keys, destroyed or not.
select id, purpose, erasable, wrapped, erased_seq from canon.data_key where tenant = $1 and id = any($2::bigint[]);

-- name: headers
-- What the sealed headers of a run are put together from.
select ts, id, author, space, kind, hash, header from canon.record where tenant = $1 and seq >= $2 and seq < $3 order by seq;

-- name: tiles
-- Those of these full tiles that there are.
select found.*
from unnest($2::smallint[], $3::bigint[]) as wanted (level, index)
cross join lateral (
    select level, index, hashes from canon.tile
    where tenant = $1 and level = wanted.level and index = wanted.index limit 1
) as found;

-- name: notes
-- Checkpoints by size.
select size, note from canon.checkpoint where tenant = $1 and size between $2 and $3;

-- name: cosignatures
-- The lines of a checkpoint.
select key, line from canon.cosignature where tenant = $1 and size = $2 order by key;

-- name: witnessed
-- The newest sizes that had enough cosignatures when the last of them came.
select size from canon.witnessed where tenant = $1 order by size desc limit $2;

-- name: mark_witnessed
-- A checkpoint that is there has enough cosignatures.
insert into canon.witnessed (size, tenant)
select $2, $1 where exists (select from canon.checkpoint where tenant = $1 and size = $2)
on conflict do nothing;

-- name: cosign
-- Keep lines of a checkpoint that is there; the first of a key stays.
insert into canon.cosignature (size, tenant, key, line)
select $2, $1, new.key, new.line from unnest($3::bytea[], $4::bytea[]) as new (key, line)
where exists (select from canon.checkpoint where tenant = $1 and size = $2)
on conflict do nothing;

-- name: rows
-- Rows in order of seq. Bytes are counted where they lie, so large payloads beyond the bound are never read; 44 of them are the seal's.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from (
    select chosen.*,
           coalesce(sum(header_bytes + octet_length(payload) - 44)
                    over (order by seq rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
        from canon.record
        where tenant = $1 and seq >= $2 and seq < $3
          and (cardinality($6::text[]) = 0 or kind = any($6))
          and (cardinality($7::text[]) = 0 or space = any($7))
          and ($8::text is null or space <> 'user' or subject = $8)
          and ($9::bigint is null or ts >= $9) and ($10::bigint is null or ts < $10)
        order by seq limit $4
    ) as chosen
) as counted
where bytes_before < $5 order by seq;

-- name: rows_of_kinds
-- The same for a few kinds, each by its index, which holds seq >> 12.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from (
    select chosen.*,
           coalesce(sum(header_bytes + octet_length(payload) - 44)
                    over (order by seq rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select found.*
        from unnest($6::text[]) as wanted (kind)
        cross join lateral (
            select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
            from canon.record
            where tenant = $1 and kind = wanted.kind and seq >> 12 >= $2 >> 12 and seq >= $2 and seq < $3
              and (cardinality($7::text[]) = 0 or space = any($7))
              and ($8::text is null or space <> 'user' or subject = $8)
              and ($9::bigint is null or ts >= $9) and ($10::bigint is null or ts < $10)
            order by seq >> 12, seq limit $4
        ) as found
        order by seq limit $4
    ) as chosen
) as counted
where bytes_before < $5 order by seq;

-- name: rows_of_subject
-- The same for one subject, by its index.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from (
    select chosen.*,
           coalesce(sum(header_bytes + octet_length(payload) - 44)
                    over (order by seq rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
        from canon.record
        where tenant = $1 and subject = $11 and subject <> '' and seq >> 12 >= $2 >> 12 and seq >= $2 and seq < $3
          and (cardinality($6::text[]) = 0 or kind = any($6))
          and (cardinality($7::text[]) = 0 or space = any($7))
          and ($8::text is null or space <> 'user' or subject = $8)
          and ($9::bigint is null or ts >= $9) and ($10::bigint is null or ts < $10)
        order by seq >> 12, seq limit $4
    ) as chosen
) as counted
where bytes_before < $5 order by seq;

-- name: hold_epoch
-- No row if the writer's time is over; a take-over waits until this transaction ends.
select epoch from canon.writer_epoch where tenant = $1 and epoch = $2 for share;

-- name: standing
-- Which places of a run are taken.
select seq from canon.record where tenant = $1 and seq >= $2 and seq < $3;

-- name: end_keys
-- Destroy data keys, as the commit of the past did.
update canon.data_key as old set wrapped = null, erased_seq = new.erased_seq
from unnest($2::bigint[], $3::bigint[]) as new (id, erased_seq)
where old.tenant = $1 and old.id = new.id and old.erased_seq is null;

-- name: put_keys
-- Data keys for the rows that were missing.
insert into canon.data_key (tenant, id, purpose, erasable, wrapped, erased_seq)
select $1, new.* from unnest($2::bigint[], $3::uuid[], $4::boolean[], $5::bytea[], $6::bigint[]) as new;

-- name: put_records
-- The rows that are missing of a commit of the past, each at its own seq.
insert into canon.record
    (tenant, seq, ts, id, author, thing, governs, space, kind, subject, hash, header, header_bytes, decision, payload, data_key)
select $1, new.* from unnest($2::bigint[], $3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::boolean[], $8::text[], $9::text[],
                             $10::text[], $11::bytea[], $12::bytea[], $13::smallint[], $14::bigint[], $15::bytea[], $16::bigint[]) as new
on conflict do nothing;

-- name: same_records
-- How many of them stand exactly so. Payloads are sealed anew each time; that what stands opens to its header's was asked before.
select count(*)
from unnest($2::bigint[], $3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::boolean[], $8::text[], $9::text[], $10::text[],
            $11::bytea[], $12::bytea[], $13::smallint[], $14::bigint[])
     as new (seq, ts, id, author, thing, governs, space, kind, subject, hash, header, header_bytes, decision)
join canon.record as old on old.tenant = $1 and old.seq = new.seq
where (old.ts, old.id, old.author, old.governs, old.space, old.kind, old.subject, old.hash, old.header, old.header_bytes)
    = (new.ts, new.id, new.author, new.governs, new.space, new.kind, new.subject, new.hash, new.header, new.header_bytes)
  and (old.thing, old.decision) is not distinct from (new.thing, new.decision);

-- name: put_tiles
-- Tiles that a commit of the past filled.
insert into canon.tile (tenant, level, "index", hashes)
select $1, new.* from unnest($2::smallint[], $3::bigint[], $4::bytea[]) as new
on conflict do nothing;

-- name: same_tiles
-- How many of them stand exactly so.
select count(*)
from unnest($2::smallint[], $3::bigint[], $4::bytea[]) as new (level, index, hashes)
join canon.tile as old on old.tenant = $1 and old.level = new.level and old.index = new.index and old.hashes = new.hashes;

-- name: put_checkpoints
-- The checkpoint of a commit of the past.
insert into canon.checkpoint (tenant, size, note)
select $1, new.* from unnest($2::bigint[], $3::bytea[]) as new
on conflict do nothing;

-- name: same_checkpoints
-- Whether it stands exactly so.
select count(*)
from unnest($2::bigint[], $3::bytea[]) as new (size, note)
join canon.checkpoint as old on old.tenant = $1 and old.size = new.size and old.note = new.note;

-- name: versions
-- Versions of one thing, newest first, below a seq.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from (
    select chosen.*,
           coalesce(sum(header_bytes + octet_length(payload) - 44)
                    over (order by seq desc rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
        from canon.record
        where tenant = $1 and thing = $2 and seq < $3
        order by seq desc limit $4
    ) as chosen
) as counted
where bytes_before < $5 order by seq desc;

-- name: versions_of_kinds
-- System records of some kinds, newest first, below a seq; the index holds seq >> 12.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
from (
    select chosen.*,
           coalesce(sum(header_bytes + octet_length(payload) - 44)
                    over (order by seq desc rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header_bytes, header, payload
        from canon.record
        where tenant = $1 and kind = any($2) and space = 'system' and seq >> 12 <= $3 >> 12 and seq < $3
        order by seq >> 12 desc, seq desc limit $4
    ) as chosen
) as counted
where bytes_before < $5 order by seq desc;

-- name: anything_erased
-- Whether a data key was ever destroyed.
select exists (select from canon.data_key where tenant = $1 and erased_seq is not null);

-- name: not_granted
-- What this role lacks to scrub. Before Postgres 17 only a table's owner maintains it.
select concat_ws(', ',
    case when current_setting('server_version_num')::int < 170000 then 'maintain on canon.data_key (Postgres 17)'
         when not has_table_privilege('canon.data_key', 'maintain') then 'maintain on canon.data_key' end,
    case when not has_function_privilege('pg_switch_wal()', 'execute') then 'execute on pg_switch_wal()' end,
    case when not pg_has_role('pg_checkpoint', 'usage') then 'pg_checkpoint' end);

-- name: keys_bytes
-- How large the table of keys is.
select pg_table_size('canon.data_key');

-- name: rewrite_keys
-- The keys in a new file, and in it nothing but what stands.
vacuum (full, verbose) canon.data_key;

-- name: prune_keys
-- What is dead leaves its pages; the unused part of a page is left as it is.
vacuum (index_cleanup off) canon.data_key;

-- name: switch_log
-- The write-ahead log goes on in a new segment.
select pg_switch_wal();

-- name: checkpoint
-- Everything is in the tables; the log before is needed by nobody.
checkpoint;
