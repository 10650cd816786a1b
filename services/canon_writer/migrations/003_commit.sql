-- The one commit, in one statement. Before the code.
--
-- Raises SG001 when another writer has taken over, SG002 when the head isn't where the writer thinks, SG003 when a decision was used
-- already. Then nothing was written.

create function canon.commit_batch(
    in_tenant text, in_epoch bigint, in_size bigint,
    in_ids uuid[], in_spaces text[], in_kinds text[], in_subjects text[], in_things uuid[], in_authors uuid[], in_governs boolean[],
    in_ts bigint[], in_hashes bytea[], in_headers bytea[], in_payloads bytea[], in_salts bytea[],
    in_decision_records uuid[], in_decision_indexes smallint[], in_decision_seqs bigint[], in_decision_ts bigint[],
    in_decision_commands text[], in_decision_owners text[], in_decision_licences uuid[], in_decision_digests bytea[],
    in_decision_effects uuid[],
    in_used_records uuid[], in_used_indexes smallint[], in_used_by uuid[],
    in_tile_levels smallint[], in_tile_indexes bigint[], in_tile_hashes bytea[],
    in_note bytea
) returns void language plpgsql as $$
declare
    head bigint;
begin
    -- Shared, so that a take-over, which updates the row, waits for this commit, and every later one of ours finds another epoch.
    perform 1 from canon.writer_epoch where tenant = in_tenant and epoch = in_epoch for share;
    if not found then
        raise exception 'epoch % is over', in_epoch using errcode = 'SG001';
    end if;

    select coalesce(max(seq) + 1, 0) into head from canon.record where tenant = in_tenant;
    if head <> in_size then
        raise exception 'the head is %, not %', head, in_size using errcode = 'SG002';
    end if;

    insert into canon.record
        (seq, ts, id, author, thing, governs, tenant, space, kind, subject, hash, salt, header, payload)
    select in_size + place - 1, ts, id, author, thing, governs, in_tenant, space, kind, subject, hash, salt, header, payload
    from unnest(in_ids, in_spaces, in_kinds, in_subjects, in_things, in_authors, in_governs,
                in_ts, in_hashes, in_headers, in_payloads, in_salts)
         with ordinality
         as new (id, space, kind, subject, thing, author, governs, ts, hash, header, payload, salt, place)
    order by place;

    if cardinality(in_decision_records) > 0 then
        insert into canon.decision (seq, ts, record, licence, effect, "index", tenant, command, owner, digest)
        select seq, ts, record, licence, effect, new.index, in_tenant, command, owner, digest
        from unnest(in_decision_records, in_decision_indexes, in_decision_seqs, in_decision_ts, in_decision_commands,
                    in_decision_owners, in_decision_licences, in_decision_digests, in_decision_effects)
             as new (record, index, seq, ts, command, owner, licence, digest, effect);
    end if;

    -- One by one, so that each is found by its index whatever the planner thinks of the table's size.
    for place in 1 .. cardinality(in_used_records) loop
        update canon.decision set used_by = in_used_by[place]
        where tenant = in_tenant and record = in_used_records[place] and "index" = in_used_indexes[place] and used_by is null;
        if not found then
            raise exception 'a decision was used already' using errcode = 'SG003';
        end if;
    end loop;

    insert into canon.tile (level, "index", tenant, hashes)
    select level, new.index, in_tenant, hashes
    from unnest(in_tile_levels, in_tile_indexes, in_tile_hashes) as new (level, index, hashes);

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

-- Every query here has its index. A plan made while a table was small must not read the whole of it once it has grown.
do $$
begin
    execute format('alter database %I set enable_seqscan = off', current_database());
end
$$;
