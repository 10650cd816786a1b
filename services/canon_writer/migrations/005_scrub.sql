-- The writer may write the table of data keys anew after an erasure (`scrubbing.py`). Before the code. Earlier than Postgres 17 nobody but the
-- owner may, and the writer says so. What else it needs, the database's administrator grants: deploy/postgres/roles.sql.
do $$
begin
    if current_setting('server_version_num')::int >= 170000 then
        execute 'grant maintain on canon.data_key to canon_writer';
    end if;
end
$$;
