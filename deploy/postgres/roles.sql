-- The database's roles, made once by its administrator; then `python -m services.canon_writer.migrate` as canon_owner makes the rest.
-- The migrations themselves are installed with the program: services/canon_writer/migrations/.
--
--   psql -v owner_password=... -v writer_password=... -v reader_password=... -f roles.sql
--
-- Safe to run again: what is there stays, passwords are set anew.
\set ON_ERROR_STOP on

select format('create role %I login', name)
from unnest(array['canon_owner', 'canon_writer', 'canon_reader']) as name
where not exists (select from pg_roles where rolname = name) \gexec

alter role canon_owner login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password :'owner_password';
alter role canon_writer login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password :'writer_password';
alter role canon_reader login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password :'reader_password';

select 'create database sigil owner canon_owner'
where not exists (select from pg_database where datname = 'sigil') \gexec

revoke all on database sigil from public;
grant connect on database sigil to canon_owner, canon_writer, canon_reader;

-- After an erasure the writer lets go of the write-ahead log that still holds the destroyed key. With `wal_recycle = off` the server removes its
-- segments; archives and replicas keep their own.
grant pg_checkpoint to canon_writer;
\connect sigil
grant execute on function pg_switch_wal() to canon_writer;
