-- name: table
-- The newest grant of each owner who lent to this node.
create table if not exists held (
    issuer text primary key,
    epoch integer not null,
    grant_hash text not null,
    token text not null,
    held_ms integer not null
) strict;

-- name: keep
-- A newer grant takes the place of the one held; an older one changes nothing.
insert into held (issuer, epoch, grant_hash, token, held_ms) values (:issuer, :epoch, :grant_hash, :token, :held_ms)
on conflict (issuer) do update
set epoch = excluded.epoch, grant_hash = excluded.grant_hash, token = excluded.token, held_ms = excluded.held_ms
where excluded.epoch > held.epoch;

-- name: newest
-- What that owner lent.
select token from held where issuer = :issuer;
