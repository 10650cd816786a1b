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
                          $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38);

-- name: head
-- The newest checkpoint; its size is the head.
select size, note from canon.checkpoint where tenant = $1 order by size desc limit 1;

-- name: last_seq
-- The newest row itself, for the start: a checkpoint without its rows would show here.
select max(seq) from canon.record where tenant = $1;

-- name: governing
-- Every row that moves the fold, in order.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
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
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
from canon.record where tenant = $1 and id = any($2::uuid[]);

-- name: by_hash
-- The row of this record hash.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
from canon.record where hash = $2 and tenant = $1;

-- name: decisions
-- These decisions.
select found.*
from unnest($2::uuid[], $3::smallint[]) as wanted (record, index)
cross join lateral (
    select seq, ts, record, licence, effect, used_by, index, command, owner, digest
    from canon.decision where tenant = $1 and record = wanted.record and index = wanted.index limit 1
) as found;

-- name: thing_heads
-- The newest version of each thing.
select wanted.thing, newest.hash
from unnest($2::uuid[]) as wanted (thing)
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
-- The sealed headers of a run.
select header from canon.record where tenant = $1 and seq >= $2 and seq < $3 order by seq;

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

-- name: rows
-- Rows in order of seq. Bytes are counted where they lie, so large payloads beyond the bound are never read; 44 of them are the seal's.
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
from (
    select chosen.*,
           coalesce(sum(octet_length(header) + octet_length(payload) - 44)
                    over (order by seq rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
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
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
from (
    select chosen.*,
           coalesce(sum(octet_length(header) + octet_length(payload) - 44)
                    over (order by seq rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select found.*
        from unnest($6::text[]) as wanted (kind)
        cross join lateral (
            select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
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
select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
from (
    select chosen.*,
           coalesce(sum(octet_length(header) + octet_length(payload) - 44)
                    over (order by seq rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
        select seq, ts, id, author, thing, governs, space, kind, subject, hash, data_key, header, payload
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
