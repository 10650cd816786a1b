-- name: table
create table if not exists held (
    issuer text primary key,
    epoch integer not null,
    grant_hash text not null,
    token text not null,
    held_ms integer not null
) strict;

-- name: keep
insert into held (issuer, epoch, grant_hash, token, held_ms) values (:issuer, :epoch, :grant_hash, :token, :held_ms)
on conflict (issuer) do update
set epoch = excluded.epoch, grant_hash = excluded.grant_hash, token = excluded.token, held_ms = excluded.held_ms
where excluded.epoch > held.epoch;

-- name: newest
select token from held where issuer = :issuer;
