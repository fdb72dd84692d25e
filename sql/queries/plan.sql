-- What a plan and its rehearsal ask.

-- name: tables_of_schema
-- The tables and views of a schema before a migration: only their locks can make anybody wait.
SELECT c.oid FROM pg_class c
 WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relkind IN ('r', 'p', 'v', 'm');

-- name: locks_held
-- The locks that this session's transaction holds on these tables, those of plain reading left out, strongest last.
SELECT c.relname::text, l.mode
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock'
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND l.relation = ANY (%(tables)s)
 ORDER BY c.relname, l.mode;

-- name: estimated_rows
-- About how many rows the tables of a schema have, as the planner knows it; -1 where nobody looked yet.
SELECT c.relname::text, c.reltuples::bigint FROM pg_class c
 WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relkind IN ('r', 'p', 'm')
 ORDER BY c.relname;

-- name: column_values
-- How many values a column has, and a sum over their hashes that does not depend on the rows' order.
SELECT count({column}), coalesce(sum(hashtextextended({column}::text, 0)), 0)::text FROM {table};
