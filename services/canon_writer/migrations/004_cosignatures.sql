-- Cosignatures of checkpoints (C2SP tlog-cosignature), as their cosigners answered them. Before the code.
--
-- The first line of a key for a size stays. Each is verified before it is written and again when it is read, so a row proves nothing by
-- being here, and a row that is missing hides nothing that its cosigner doesn't show.

create table canon.cosignature (
    size   bigint not null,
    tenant text   not null,
    key    bytea  not null check (octet_length(key) = 32),
    line   bytea  not null check (octet_length(line) <= 1024),
    primary key (tenant, size, key)
);

-- Checkpoints that had enough cosignatures by the policy in force when the last of them came: where a reader looks first. It judges again.
create table canon.witnessed (
    size   bigint not null,
    tenant text   not null,
    primary key (tenant, size)
);

create trigger append_only before update or delete or truncate on canon.cosignature
    for each statement execute function canon.refuse_change();
create trigger append_only before update or delete or truncate on canon.witnessed
    for each statement execute function canon.refuse_change();
alter table canon.cosignature enable always trigger append_only;
alter table canon.witnessed enable always trigger append_only;

revoke all on canon.cosignature, canon.witnessed from public;
grant select on canon.cosignature, canon.witnessed to canon_writer, canon_reader;
grant insert on canon.cosignature, canon.witnessed to canon_writer;
