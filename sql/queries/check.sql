-- name: server_state
-- Is this a standby, and would a transaction here be read-only?
SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean;

-- name: privileges_of_role
-- What this role may do with the database and the schemas; null for a schema that is not there.
SELECT has_database_privilege(current_database(), 'CREATE') AS database,
       (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace
         WHERE nspname = %(schema)s) AS schema,
       (SELECT has_schema_privilege(oid, 'USAGE') AND pg_has_role(nspowner, 'MEMBER') FROM pg_namespace
         WHERE nspname = 'kg_ops') AS kg_ops,
       quote_ident(current_database()) AS database_name, quote_ident(%(schema)s) AS schema_name,
       quote_ident(current_user) AS role_name;

-- name: foreign_owners
-- Tables of ours whose owner this role is not a member of: it can change none of them.
SELECT quote_ident(relname), quote_ident(pg_get_userbyid(relowner)) FROM pg_class
 WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relname = ANY (%(tables)s) AND relkind IN ('r', 'p')
   AND NOT pg_has_role(relowner, 'MEMBER')
 ORDER BY 1;

-- name: waiting_sessions
-- Sessions of this database that wait for a lock, longest first, each with one that it waits for.
SELECT w.pid, coalesce(w.usename, '?')::text, extract(epoch FROM clock_timestamp() - w.query_start)::float8,
       b.pid, coalesce(b.usename, '?')::text, coalesce(b.state, 'background'),
       coalesce(regexp_replace(left(b.query, 80), '\s+', ' ', 'g'), '')
  FROM pg_stat_activity w
 CROSS JOIN LATERAL (SELECT unnest(pg_blocking_pids(w.pid)) AS pid LIMIT 1) p
  JOIN pg_stat_activity b ON b.pid = p.pid
 WHERE w.datname = current_database() AND w.wait_event_type = 'Lock'
 ORDER BY 3 DESC;

-- name: exclusive_holders
-- Other sessions of this database that keep even readers out of tables, longest transaction first.
SELECT a.pid, coalesce(a.usename, '?')::text, extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
       coalesce(a.state, 'background'), coalesce(regexp_replace(left(a.query, 80), '\s+', ' ', 'g'), ''),
       string_agg(DISTINCT c.relname::text, ', ' ORDER BY c.relname::text)
  FROM pg_locks l
  JOIN pg_stat_activity a ON a.pid = l.pid
  JOIN pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'm') AND c.relnamespace <> 'pg_catalog'::regnamespace
 WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted AND a.datname = current_database()
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND a.pid <> pg_backend_pid()
 GROUP BY 1, 2, 3, 4, 5
 ORDER BY 3 DESC NULLS LAST;

-- name: idle_transactions
-- Sessions of this database that did nothing in an open transaction for at least so many seconds.
SELECT pid, coalesce(usename, '?')::text, extract(epoch FROM clock_timestamp() - state_change)::float8,
       coalesce(regexp_replace(left(query, 80), '\s+', ' ', 'g'), '')
  FROM pg_stat_activity
 WHERE datname = current_database() AND state LIKE 'idle in transaction%%' AND pid <> pg_backend_pid()
   AND clock_timestamp() - state_change >= make_interval(secs => %(seconds)s)
 ORDER BY 3 DESC;

-- name: sees_all_sessions
-- May this role see what others' sessions run?
SELECT pg_has_role('pg_read_all_stats', 'USAGE');

-- name: archiving
-- Does the server archive its write-ahead log, and did it lately fail to?
SELECT current_setting('archive_mode'), last_archived_time, last_failed_time FROM pg_stat_archiver;

-- name: filtered_tables
-- Tables to be dumped whose rows row security would hide from this role.
SELECT c.oid::regclass::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND row_security_active(c.oid)
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s))
 ORDER BY 1;

-- name: unreadable_relations
-- Tables and sequences to be dumped that this role may not read.
SELECT format('%%I.%%I', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s))
   AND NOT (has_schema_privilege(n.oid, 'USAGE')
            AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                               ELSE has_table_privilege(c.oid, 'SELECT') END)
   AND NOT EXISTS (SELECT FROM pg_depend d
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1;

-- name: try_vector
-- In a transaction that is rolled back: may this role create the extension?
CREATE EXTENSION vector;

-- name: used_collations
-- Collations of the system's that columns, indexes, types or domains here ask for by name, with their provider.
SELECT DISTINCT c.collname::text, c.collprovider::text
  FROM pg_depend d JOIN pg_collation c ON d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid
 WHERE c.collprovider IN ('c', 'i') AND c.collname NOT IN ('default', 'C', 'POSIX')
   AND c.collnamespace = 'pg_catalog'::regnamespace AND d.classid <> 'pg_collation'::regclass
 ORDER BY 1;

-- name: present_collations
SELECT collname::text FROM pg_collation WHERE collnamespace = 'pg_catalog'::regnamespace;

-- name: available_extensions
SELECT name::text FROM pg_available_extensions;

-- name: may_create_database
SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user;

-- name: session_probe
-- Which backend answers, and does it know what the session has set?
SELECT pg_backend_pid(), current_setting(%(name)s, true);

-- name: index_builds
-- Index builds under way in this database: rows (or blocks, before any row) done and in all, and for whom one waits.
SELECT coalesce(i.relname, p.relid::regclass::text)::text, p.pid, p.phase,
       CASE WHEN p.tuples_total > 0 THEN p.tuples_done ELSE p.blocks_done END,
       CASE WHEN p.tuples_total > 0 THEN p.tuples_total ELSE p.blocks_total END,
       extract(epoch FROM clock_timestamp() - a.query_start)::float8, nullif(p.current_locker_pid, 0)
  FROM pg_stat_progress_create_index p
  JOIN pg_stat_activity a ON a.pid = p.pid
  LEFT JOIN pg_class i ON i.oid = p.index_relid
 WHERE p.datname = current_database()
 ORDER BY a.query_start;

-- name: leftover_schemas
-- Schemas of ours that do not belong here for ever, with their size in bytes.
SELECT n.nspname::text, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
  FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'm')
 WHERE n.nspname ~ '^kg_(replaced|expected)_'
 GROUP BY n.nspname ORDER BY n.nspname;

-- name: dead_operations
-- Operations that never said how they ended while nobody holds the operation lock, each with its last journal line.
SELECT o.kind, o.started_at, (SELECT j.step FROM kg_ops.journal j WHERE j.operation = o.id ORDER BY j.sequence DESC LIMIT 1)
  FROM kg_ops.operation o
 WHERE o.state = 'running'
   AND NOT EXISTS (SELECT FROM pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 27495 AND l.objid = 1 AND l.objsubid = 2
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
 ORDER BY o.started_at;
