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
                 WHERE i.indrelid = c.oid AND i.indisprimary), ARRAY[]::text[]) AS primary_key
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

-- name: count_rows
SELECT count(*) FROM ONLY {table} {condition};

-- name: hash_sample
-- Some rows by a hash of their key, the same ones wherever the table is restored, as one hash over their text.
SELECT encode(sha256(string_agg(sha256(convert_to(content, getdatabaseencoding()::name)), ''::bytea ORDER BY place)), 'hex')
FROM (SELECT sampled::text AS content,
             sha256(convert_to(ROW ({key})::text, getdatabaseencoding()::name)) AS place
      FROM ONLY {table} AS sampled ORDER BY place LIMIT 100) AS sample;

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
