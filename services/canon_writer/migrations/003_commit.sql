-- The one commit, in one statement. Before the code.
--
-- Raises SG001 when another writer has taken over, SG002 when the head isn't where the writer thinks, SG003 when what a record uses is no
-- decision, SG004 when a key to destroy isn't there any more. An id that stands, or a decision that was used, is a unique violation. Then
-- nothing was written.

create function canon.commit_batch(
    in_tenant text, in_epoch bigint, in_size bigint,
    in_ids uuid[], in_spaces text[], in_kinds text[], in_subjects text[], in_things uuid[], in_authors uuid[], in_governs boolean[],
    in_ts bigint[], in_hashes bytea[], in_headers bytea[], in_header_bytes smallint[], in_payloads bytea[], in_data_keys bigint[],
    in_decisions bigint[],
    in_tile_levels smallint[], in_tile_indexes bigint[], in_tile_hashes bytea[],
    in_note bytea,
    in_ended_keys bigint[], in_ended_seqs bigint[],
    in_key_ids bigint[], in_key_purposes uuid[], in_key_erasable boolean[], in_key_wrapped bytea[], in_key_erased_seqs bigint[]
) returns void language plpgsql as $$
declare
    head bigint;
begin
    -- Shared, so that a take-over, which updates the row, waits for this commit, and every later one of ours finds another epoch.
    perform 1 from canon.writer_epoch where tenant = in_tenant and epoch = in_epoch for share;
    if not found then
        raise exception 'epoch % is over', in_epoch using errcode = 'SG001';
    end if;

    select seq + 1 into head from canon.record where tenant = in_tenant order by seq desc limit 1;
    if coalesce(head, 0) <> in_size then
        raise exception 'the head is %, not %', coalesce(head, 0), in_size using errcode = 'SG002';
    end if;

    insert into canon.record
        (seq, ts, id, author, thing, decision, data_key, header_bytes, governs, tenant, space, kind, subject, hash, header, payload)
    select in_size + place - 1, ts, id, author, thing, decision, data_key, header_bytes, governs, in_tenant, space, kind, subject, hash,
           header, payload
    from unnest(in_ids, in_spaces, in_kinds, in_subjects, in_things, in_authors, in_governs,
                in_ts, in_hashes, in_headers, in_header_bytes, in_payloads, in_data_keys, in_decisions)
         with ordinality
         as new (id, space, kind, subject, thing, author, governs, ts, hash, header, header_bytes, payload, data_key, decision, place)
    order by place;

    -- One by one, so that each is found by its index whatever the planner thinks of the table's size.
    for place in 1 .. cardinality(in_decisions) loop
        if in_decisions[place] is not null then
            perform 1 from canon.record
            where tenant = in_tenant and seq = in_decisions[place] >> 8 and kind in ('decision_batch', 'approved_decision', 'erasure_order');
            if not found then
                raise exception 'no decision stands at %', in_decisions[place] >> 8 using errcode = 'SG003';
            end if;
        end if;
    end loop;

    -- Before the new ones: a thing that is erased and written again has one key in use at any time.
    for place in 1 .. cardinality(in_ended_keys) loop
        update canon.data_key set wrapped = null, erased_seq = in_ended_seqs[place]
        where tenant = in_tenant and id = in_ended_keys[place] and erased_seq is null;
        if not found then
            raise exception 'data key % was destroyed already', in_ended_keys[place] using errcode = 'SG004';
        end if;
    end loop;

    if cardinality(in_key_ids) > 0 then
        insert into canon.data_key (id, erased_seq, purpose, erasable, tenant, wrapped)
        select id, erased_seq, purpose, erasable, in_tenant, wrapped
        from unnest(in_key_ids, in_key_purposes, in_key_erasable, in_key_wrapped, in_key_erased_seqs)
             as new (id, purpose, erasable, wrapped, erased_seq);
    end if;

    if cardinality(in_tile_levels) > 0 then
        insert into canon.tile (level, "index", tenant, hashes)
        select level, new.index, in_tenant, hashes
        from unnest(in_tile_levels, in_tile_indexes, in_tile_hashes) as new (level, index, hashes);
    end if;

    insert into canon.checkpoint (size, tenant, note) values (in_size + cardinality(in_ids), in_tenant, in_note);
end
$$;

-- Raise the epoch. It waits for the commit in flight, if there is one; after it, no older writer can commit.
create function canon.raise_epoch(in_tenant text) returns bigint language sql as $$
    insert into canon.writer_epoch (tenant, epoch, seen_at) values (in_tenant, 1, clock_timestamp())
    on conflict (tenant) do update set epoch = canon.writer_epoch.epoch + 1, seen_at = clock_timestamp()
    returning epoch
$$;

revoke all on all functions in schema canon from public;
grant execute on function canon.commit_batch, canon.raise_epoch to canon_writer;

-- Every query here has its index. A plan made while a table was small must not read the whole of it once it has grown; and it is made once,
-- for planning each commit anew costs more than the commit.
do $$
begin
    execute format('alter database %I set enable_seqscan = off', current_database());
    execute format('alter database %I set plan_cache_mode = force_generic_plan', current_database());
end
$$;
