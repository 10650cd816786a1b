-- Payloads and salts are sealed before they come here, by data keys that are wrapped by a key that never comes here. Before the code.
--
-- A record's row still never changes. What an erasure changes is the row of one data key: its key goes, and with it what it sealed.

do $$
begin
    if exists (select from canon.record) then
        raise exception 'this database holds records whose payloads are not sealed, and they can''t be sealed in place: '
            'begin a new data folder, or keep this one with the version that made it';
    end if;
end
$$;

-- `id` is random; `purpose` the digest of a thing, or of a space and a day.
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

alter table canon.record drop column salt;
alter table canon.record add column data_key bigint not null;
-- Sealed bytes don't compress.
alter table canon.record alter column payload set storage external;

-- A data key is destroyed once and changes in nothing else; one that isn't a thing's, never.
create function canon.check_key_end() returns trigger language plpgsql as $$
declare
    ended canon.data_key := old;
begin
    ended.wrapped := null;
    ended.erased_seq := new.erased_seq;
    if old.erased_seq is not null or new.erased_seq is null or not old.erasable or ended is distinct from new then
        raise exception 'a thing''s data key is destroyed once and changes in nothing else' using errcode = 'SG000';
    end if;
    return new;
end
$$;
create trigger ended_once before update on canon.data_key for each row execute function canon.check_key_end();
create trigger append_only before delete or truncate on canon.data_key
    for each statement execute function canon.refuse_change();
alter table canon.data_key enable always trigger ended_once;
alter table canon.data_key enable always trigger append_only;

revoke all on canon.data_key from public;
grant select on canon.data_key to canon_writer, canon_reader;
grant insert on canon.data_key to canon_writer;
grant update (wrapped, erased_seq) on canon.data_key to canon_writer;

-- The one commit, with its data keys. Beside what it raised before: SG004 when a key to destroy isn't there any more.
drop function canon.commit_batch;
create function canon.commit_batch(
    in_tenant text, in_epoch bigint, in_size bigint,
    in_ids uuid[], in_spaces text[], in_kinds text[], in_subjects text[], in_things uuid[], in_authors uuid[], in_governs boolean[],
    in_ts bigint[], in_hashes bytea[], in_headers bytea[], in_payloads bytea[], in_data_keys bigint[],
    in_decision_records uuid[], in_decision_indexes smallint[], in_decision_seqs bigint[], in_decision_ts bigint[],
    in_decision_commands text[], in_decision_owners text[], in_decision_licences uuid[], in_decision_digests bytea[],
    in_decision_effects uuid[],
    in_used_records uuid[], in_used_indexes smallint[], in_used_by uuid[],
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

    select coalesce(max(seq) + 1, 0) into head from canon.record where tenant = in_tenant;
    if head <> in_size then
        raise exception 'the head is %, not %', head, in_size using errcode = 'SG002';
    end if;

    insert into canon.record
        (seq, ts, id, author, thing, governs, tenant, space, kind, subject, hash, header, payload, data_key)
    select in_size + place - 1, ts, id, author, thing, governs, in_tenant, space, kind, subject, hash, header, payload, data_key
    from unnest(in_ids, in_spaces, in_kinds, in_subjects, in_things, in_authors, in_governs,
                in_ts, in_hashes, in_headers, in_payloads, in_data_keys)
         with ordinality
         as new (id, space, kind, subject, thing, author, governs, ts, hash, header, payload, data_key, place)
    order by place;

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

revoke all on function canon.commit_batch from public;
grant execute on function canon.commit_batch to canon_writer;
