-- What was written stays: by grant for the services, by trigger for everybody, the owner included. Before the code.

create function canon.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'SG000';
end
$$;

create trigger append_only before update or delete or truncate on canon.record
    for each statement execute function canon.refuse_change();
create trigger append_only before update or delete or truncate on canon.tile
    for each statement execute function canon.refuse_change();
create trigger append_only before update or delete or truncate on canon.checkpoint
    for each statement execute function canon.refuse_change();
create trigger append_only before delete or truncate on canon.data_key
    for each statement execute function canon.refuse_change();
create trigger append_only before delete or truncate on canon.writer_epoch
    for each statement execute function canon.refuse_change();

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

-- An epoch never falls.
create function canon.check_epoch() returns trigger language plpgsql as $$
begin
    if new.epoch < old.epoch or new.tenant <> old.tenant then
        raise exception 'an epoch never falls' using errcode = 'SG000';
    end if;
    return new;
end
$$;
create trigger never_falls before update on canon.writer_epoch for each row execute function canon.check_epoch();

-- Also when a session claims to be a replica's.
alter table canon.record enable always trigger append_only;
alter table canon.tile enable always trigger append_only;
alter table canon.checkpoint enable always trigger append_only;
alter table canon.data_key enable always trigger append_only;
alter table canon.data_key enable always trigger ended_once;
alter table canon.writer_epoch enable always trigger append_only;
alter table canon.writer_epoch enable always trigger never_falls;

revoke all on schema canon from public;
revoke all on all tables in schema canon from public;
grant usage on schema canon to canon_writer, canon_reader;
grant select on canon.record, canon.data_key, canon.tile, canon.checkpoint, canon.writer_epoch to canon_writer, canon_reader;
grant insert on canon.record, canon.data_key, canon.tile, canon.checkpoint, canon.writer_epoch to canon_writer;
grant update (wrapped, erased_seq) on canon.data_key to canon_writer;
grant update (epoch, seen_at) on canon.writer_epoch to canon_writer;
