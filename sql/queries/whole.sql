-- The whole database beside, and its swap: asked in the maintenance database, but for what the first says.

-- name: database_facts
-- The database by name: what a database beside needs to be like it, and whether we may make and rename one.
SELECT d.oid::bigint, pg_get_userbyid(d.datdba)::text, d.datconnlimit, d.datallowconn, t.spcname::text,
       shobj_description(d.oid, 'pg_database'), pg_has_role(d.datdba, 'USAGE'),
       (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user)
FROM pg_database AS d JOIN pg_tablespace AS t ON t.oid = d.dattablespace
WHERE d.datname = %(name)s;

-- name: database_grants
-- Who may do what with it; no row where nothing was ever granted or revoked.
SELECT CASE WHEN acl.grantee = 0 THEN NULL ELSE pg_get_userbyid(acl.grantee)::text END, acl.privilege_type,
       acl.is_grantable
FROM pg_database AS d, aclexplode(d.datacl) AS acl WHERE d.datname = %(name)s;

-- name: database_settings
-- ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE ... SET, as "name=value".
SELECT CASE WHEN s.setrole = 0 THEN NULL ELSE pg_get_userbyid(s.setrole)::text END, setting
FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS setting
WHERE d.datname = %(name)s;

-- name: database_hindrances
-- What bars the exchange of a database: it would be cut off, or cannot be made to leave. Of sessions that this role may
-- not look at, the server hides what kind they are; those of people have a user.
SELECT 'replication slot ' || slot_name FROM pg_replication_slots WHERE database = %(name)s
UNION ALL
SELECT 'subscription ' || subname FROM pg_subscription
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = %(name)s)
UNION ALL
SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts WHERE database = %(name)s
UNION ALL
SELECT format('session %%s of %%s, which this role may not end', a.pid, a.usename) FROM pg_stat_activity AS a
JOIN pg_roles AS theirs ON theirs.oid = a.usesysid
WHERE a.datname = %(name)s AND coalesce(a.backend_type, 'client backend') = 'client backend'
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
  AND (theirs.rolsuper OR NOT (pg_has_role(a.usesysid, 'MEMBER') OR pg_has_role('pg_signal_backend', 'MEMBER')));

-- name: try_database_lock
-- Whether this session alone now exchanges that database.
SELECT pg_try_advisory_lock(27495, hashtext(%(name)s));

-- name: journalled_comment
-- The comment of a database, and whether it takes connections.
SELECT shobj_description(oid, 'pg_database'), datallowconn FROM pg_database WHERE datname = %(name)s;

-- name: end_other_sessions
-- End every session in a database but these.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = %(name)s AND pid <> ALL (%(spared)s) AND backend_type = 'client backend';

-- name: sessions_in
-- How many clients are in a database, also those of which this role may see no more than that they are there.
SELECT count(*) FROM pg_stat_activity
WHERE datname = %(name)s AND usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend';

-- name: user_tables
-- In the database itself: tables of people, not of extensions nor of kg_ops, with their columns, types and key.
SELECT n.nspname::text, c.relname::text,
       jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)),
       array_agg(a.attname::text ORDER BY a.attname)
           FILTER (WHERE EXISTS (SELECT FROM pg_index AS i
                                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)))
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'kg_ops')
  AND n.nspname !~ '^pg_t' AND n.nspname !~ '^kg_re(store|placed)_'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
GROUP BY 1, 2 ORDER BY 1, 2;

-- name: hashed_rows
-- Every row by the hash of its key, with the hash of its content.
SELECT md5(ROW ({key})::text), md5(ROW ({columns})::text) || CASE WHEN num_nonnulls({more}) > 0 THEN '+' ELSE '' END
FROM {table} ORDER BY md5(ROW ({key})::text) COLLATE "C";

-- name: renumber_kg_ops
-- After its rows were carried over: the numbers of new ones go on behind them.
SELECT setval(pg_get_serial_sequence({table}, 'id'), greatest((SELECT max(id) FROM {rows}), 1));

-- name: replaced_databases
-- Databases that a restore of the whole one has put aside, by their mark: closed, and this role's to drop.
SELECT datname::text, pg_database_size(oid) FROM pg_database
WHERE datname ~ '^kg_replaced_' AND NOT datallowconn AND pg_has_role(datdba, 'USAGE')
  AND starts_with(shobj_description(oid, 'pg_database'), %(mark)s)
ORDER BY 1;
