-- What a backup holds, the snapshot it is taken from, and how a restored copy is compared with it.

-- name: begin_snapshot
-- No snapshot yet: BEGIN, SET and LOCK take none, the first query does. So every lock comes before it.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: limit_snapshot
-- How long a lock is waited for, and how long the server lets this session hold the snapshot.
SET LOCAL lock_timeout = {lock_timeout};
SET LOCAL idle_in_transaction_session_timeout = {hold};
SET LOCAL row_security = off;

-- name: limit_transaction
-- 17 and later have a limit of the whole transaction, which the role's default must not set below ours.
SET LOCAL transaction_timeout = {hold};

-- name: lock_table_for_dump
-- Nobody truncates, drops or alters it until the snapshot ends; reading and writing go on.
LOCK TABLE ONLY {table} IN ACCESS SHARE MODE;

-- name: export_snapshot
-- The snapshot's name for other sessions, and when it was taken.
SELECT pg_export_snapshot(), clock_timestamp();

-- name: import_snapshot
SET TRANSACTION SNAPSHOT {name};

-- name: wal_position
-- Where the write-ahead log stands.
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text;

-- name: server_clock
SELECT clock_timestamp();

-- name: existing_schemas
-- Which of these schemas there are.
SELECT nspname::text FROM pg_namespace WHERE nspname = ANY (%(schemas)s) ORDER BY 1;

-- name: dumped_tables
-- What pg_dump would lock and dump: ordinary and partitioned tables of these schemas (NULL: of all), those that an
-- extension owns only where it declared their rows to be the user's, under its condition.
SELECT format('%%I.%%I', n.nspname, c.relname) AS label, n.nspname::text AS schema, c.relname::text AS name,
       pg_get_userbyid(c.relowner)::text AS owner, c.relkind = 'r' AS has_rows,
       coalesce((SELECT e.extcondition[array_position(e.extconfig, c.oid)] FROM pg_extension e
                 WHERE c.oid = ANY (e.extconfig)), '') AS condition,
       coalesce((SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = c.oid AND i.indisprimary), ARRAY[]::text[]) AS primary_key,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum)
                 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND t.typname NOT IN ('vector', 'halfvec', 'sparsevec')), ARRAY[]::text[]) AS narrow,
       -- A hash of an enum is of a number of this database: elsewhere such rows lie in other leaves of their ancestor.
       coalesce((SELECT format('%%I.%%I', an.nspname, a.relname)
                 FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS up (oid, depth)
                 JOIN pg_class a ON a.oid = up.oid
                 JOIN pg_namespace an ON an.oid = a.relnamespace
                 JOIN pg_partitioned_table p ON p.partrelid = up.oid AND p.partstrat = 'h'
                 WHERE c.relispartition
                   AND EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
                               WHERE o.oid = ANY (p.partclass) AND o.opcname = 'enum_ops' AND m.amname = 'hash')
                 ORDER BY up.depth DESC LIMIT 1), '') AS counted_as
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s))
  AND (NOT EXISTS (SELECT FROM pg_depend d
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
       OR EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig)))
ORDER BY n.nspname, c.relname;

-- name: dumped_bytes
-- Size of the tables' data with what is stored out of line, without indexes.
SELECT coalesce(sum(pg_table_size(to_regclass(label))), 0)::bigint FROM unnest(%(labels)s::text[]) AS label;

-- name: streamable_tables
-- Of these tables those with vectors or bits, and with nothing that COPY BINARY would carry wrongly into another
-- database: composite types, arrays of types that somebody made, and reg* types hold numbers of this one.
WITH RECURSIVE plain (oid, base) AS (
    SELECT t.oid, t.oid FROM pg_type t WHERE t.typtype <> 'd'
    UNION ALL
    SELECT d.oid, p.base FROM pg_type d JOIN plain p ON p.oid = d.typbasetype WHERE d.typtype = 'd'),
travels (oid) AS (
    SELECT t.oid FROM pg_type t LEFT JOIN pg_type element ON element.oid = t.typelem
    WHERE t.typsend <> 0 AND t.typreceive <> 0
      AND (t.typtype = 'e'
           OR t.typname IN ('vector', 'halfvec', 'sparsevec', 'citext', 'hstore')
           OR (t.oid < 16384 AND t.typtype IN ('b', 'r', 'm') AND t.typname !~ '^_?reg'
               AND (element.oid IS NULL OR (element.typtype <> 'c' AND element.typsend <> 0)))))
SELECT format('%%I.%%I', n.nspname, c.relname), pg_table_size(c.oid),
       pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       array_agg(a.attname::text ORDER BY a.attnum), array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
LEFT JOIN plain p ON p.oid = a.atttypid
LEFT JOIN pg_type t ON t.oid = p.base
WHERE c.relkind = 'r' AND format('%%I.%%I', n.nspname, c.relname) = ANY (%(labels)s)
GROUP BY c.oid, n.nspname, c.relname, c.relispartition
HAVING bool_and(EXISTS (SELECT FROM travels WHERE travels.oid = p.base))
   AND bool_or(t.typname IN ('vector', 'halfvec', 'sparsevec', 'bit', 'varbit'))
   -- An enum's hash is of a number of this database: pg_dump sends such rows through the partitioned table.
   AND NOT (c.relispartition AND bool_or(t.typtype = 'e'))
ORDER BY 2 DESC, 1;

-- name: copy_range_out
COPY (SELECT {columns} FROM ONLY {table} WHERE {condition}) TO STDOUT (FORMAT binary);

-- name: wide_row
-- One long value: what takes it has room for as much from then on.
SELECT repeat('x', %(bytes)s);

-- name: copy_rows_in
COPY {table} ({columns}) FROM STDIN (FORMAT binary);

-- name: column_types
-- The columns of a table that can be written, with their types as the search path of the session spells them.
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';

-- name: role_definitions
-- Statements for psql that make these roles, and those that they are members of, where they are not there yet. No
-- password is read: who may not see pg_authid can run it too. Roles that the server makes itself are left out.
WITH RECURSIVE wanted (oid) AS (
    SELECT oid FROM pg_roles WHERE rolname = ANY (%(roles)s)
    UNION
    SELECT m.roleid FROM pg_auth_members m JOIN wanted w ON w.oid = m.member),
named AS (SELECT r.* FROM pg_roles r JOIN wanted USING (oid) WHERE r.rolname !~ '^pg_')
SELECT format('SELECT %%L WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %%L) \gexec',
              format('CREATE ROLE %%I %%s %%s %%s %%s %%s %%s %%s CONNECTION LIMIT %%s%%s', rolname,
                     CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
                     CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
                     CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
                     CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                     CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                     CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                     CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, rolconnlimit,
                     CASE WHEN rolvaliduntil IS NULL THEN '' ELSE format(' VALID UNTIL %%L', rolvaliduntil) END), rolname) AS line, 1 AS place, rolname AS name
FROM named
UNION ALL
SELECT format('GRANT %%I TO %%I%%s;', granted.rolname, member.rolname,
              CASE WHEN bool_or(m.admin_option) THEN ' WITH ADMIN OPTION' ELSE '' END), 2,
       concat(granted.rolname, ' ', member.rolname)
FROM pg_auth_members m JOIN pg_roles granted ON granted.oid = m.roleid JOIN named member ON member.oid = m.member
GROUP BY granted.rolname, member.rolname
ORDER BY place, name;

-- name: count_rows
SELECT count(*) FROM ONLY {table} {condition};

-- name: hash_sample
-- Some rows by a hash of their key, the same ones wherever the table is restored, as one hash over their text. Only the
-- chosen ones are made text: a vector's takes longer than all the rest.
WITH chosen AS MATERIALIZED (
    SELECT sampled.ctid AS spot, sha256(convert_to(ROW ({key})::text, getdatabaseencoding()::name)) AS place
    FROM ONLY {table} AS sampled {condition} ORDER BY place LIMIT 100)
SELECT encode(sha256(string_agg(sha256(convert_to(content, getdatabaseencoding()::name)), ''::bytea ORDER BY place)), 'hex')
FROM (SELECT (sampled.*)::text AS content, place
      FROM chosen JOIN ONLY {table} AS sampled ON sampled.ctid = chosen.spot) AS sample;

-- name: hash_keyless_sample
-- The same of a table without a key: chosen by a hash of how its narrow columns begin, and among rows that are alike in
-- that by one of all their text. So the same rows, as often as they occur and in whatever order, give the same hash.
WITH places AS MATERIALIZED (
    SELECT sampled.ctid AS spot, sha256(convert_to(ROW ({beginnings})::text, getdatabaseencoding()::name)) AS place
    FROM ONLY {table} AS sampled {condition}),
chosen AS MATERIALIZED (
    SELECT spot FROM places
    WHERE place <= (SELECT place FROM (SELECT place FROM places ORDER BY place LIMIT 100) AS least
                    ORDER BY place DESC LIMIT 1))
SELECT encode(sha256(string_agg(content, ''::bytea ORDER BY content)), 'hex')
FROM (SELECT sha256(convert_to((sampled.*)::text, getdatabaseencoding()::name)) AS content
      FROM chosen JOIN ONLY {table} AS sampled ON sampled.ctid = chosen.spot ORDER BY content LIMIT 100) AS sample;

-- name: dumped_sequences
-- Sequences that fill an integer column of these tables by its default or as its identity.
SELECT format('%%I.%%I', sn.nspname, s.relname) AS label, sn.nspname::text AS schema, s.relname::text AS name,
       tn.nspname::text AS table_schema, t.relname::text AS table_name, a.attname::text AS column_name
FROM pg_depend d
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_namespace sn ON sn.oid = s.relnamespace
JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0 AND NOT q.seqcycle
JOIN pg_class t ON t.oid = d.refobjid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
  AND format('%%I.%%I', tn.nspname, t.relname) = ANY (%(labels)s)
  AND (d.deptype = 'i'
       OR EXISTS (SELECT FROM pg_attrdef f
                  JOIN pg_depend u ON u.classid = 'pg_attrdef'::regclass AND u.objid = f.oid AND u.refobjid = s.oid
                  WHERE f.adrelid = t.oid AND f.adnum = a.attnum))
ORDER BY 1;

-- name: sequence_and_column
-- What the sequence gives next, and the greatest value that its column holds.
SELECT last_value + is_called::int, (SELECT max({column}) FROM {table}) FROM {sequence};

-- name: named_roles
-- Roles that own something here, are granted something, or are named in a policy; and the superuser that initdb made.
SELECT rolname::text FROM pg_roles
WHERE oid = 10
   OR oid IN (SELECT d.refobjid FROM pg_shdepend d
              WHERE d.refclassid = 'pg_authid'::regclass
                AND d.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))
ORDER BY 1;

-- name: installed_extensions
SELECT e.extname::text, e.extversion, n.nspname::text
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
ORDER BY 1;

-- name: roles_present
SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%(roles)s);

-- name: vector_columns
-- Columns of pgvector's types, with the table and the dimensions (-1 where any).
SELECT format('%%I.%%I', n.nspname, c.relname), a.atttypmod
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
WHERE NOT a.attisdropped AND a.attnum > 0;

-- name: referred_backups
-- Backups that an operation under way refers to, or one that died and was not made good since, with its kind.
SELECT DISTINCT found.id[1], o.kind
FROM kg_ops.operation o
LEFT JOIN kg_ops.journal j ON j.operation = o.id
CROSS JOIN LATERAL regexp_matches(concat(o.detail, ' ', j.detail), '\d{8}T\d{6}Z-[0-9a-f]{8}', 'g') AS found (id)
WHERE o.state = 'running'
   OR (o.state = 'abandoned'
       AND o.started_at > coalesce((SELECT max(done.started_at) FROM kg_ops.operation done
                                    WHERE done.state IN ('done', 'rolled-back')
                                      AND done.kind IN ('deploy', 'rollback', 'recover')), '-infinity'));

-- name: all_schemas
SELECT nspname::text FROM pg_namespace;

-- name: replaced_schemas
-- Schemas of tables that restores have replaced, oldest first, with the bytes of their tables and indexes.
SELECT n.nspname::text,
       coalesce((SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
                 WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'm')), 0)::bigint
FROM pg_namespace n WHERE n.nspname ~ '^kg_replaced_' ORDER BY 1;
