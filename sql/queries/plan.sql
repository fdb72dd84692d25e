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

-- name: rows_changed
-- What this session has inserted, updated and deleted in these tables and not told the statistics yet, by whatever way:
-- a statement, a block, a function, a trigger.
SELECT c.relname::text, pg_stat_get_xact_tuples_inserted(c.oid), pg_stat_get_xact_tuples_updated(c.oid),
       pg_stat_get_xact_tuples_deleted(c.oid)
  FROM pg_class c WHERE c.oid = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
 ORDER BY c.relname;

-- name: estimated_rows
-- About how many rows the tables of a schema have, as the planner knows it; -1 where nobody looked yet.
SELECT c.relname::text, c.reltuples::bigint FROM pg_class c
 WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relkind IN ('r', 'p', 'm')
 ORDER BY c.relname;

-- name: column_values
-- How many values a column has, and a sum over their hashes that does not depend on the rows' order.
SELECT count({column}), coalesce(sum(hashtextextended({column}::text, 0)), 0)::text FROM {table};

-- name: roles_of_us
-- Our role and those that it is a member of, with what each may do by its own attributes.
WITH RECURSIVE ours AS (
    SELECT oid FROM pg_roles WHERE rolname = current_user
     UNION
    SELECT m.roleid FROM pg_auth_members m JOIN ours ON ours.oid = m.member
)
SELECT r.rolname::text AS name, r.rolsuper AS superuser, r.rolcreaterole AS createrole, r.rolcreatedb AS createdb,
       r.rolbypassrls AS bypassrls, r.rolreplication AS replication, r.rolinherit AS inherit
  FROM pg_roles r JOIN ours ON ours.oid = r.oid
 ORDER BY r.rolname <> current_user, r.rolname;

-- name: memberships_of
-- Who is a member of what, among these roles. Before 16 the member said whether it inherits, and could always SET ROLE.
SELECT pg_get_userbyid(m.roleid)::text AS role, r.rolname::text AS member, bool_or(m.admin_option) AS admin,
       bool_or(coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit)) AS inherit,
       bool_or(coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)) AS set
  FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
 WHERE r.rolname = ANY (%(roles)s)
 GROUP BY 1, 2 ORDER BY 1, 2;

-- name: rights_in_database
-- The database's owner, what our role may do in it, and whether the platform lends rights by hooks of its own, to roles
-- that have none by the catalog.
SELECT pg_get_userbyid(d.datdba)::text AS owner,
       has_database_privilege(d.oid, 'CREATE') AS may_create, has_database_privilege(d.oid, 'TEMPORARY') AS may_temp,
       coalesce(current_setting('supautils.privileged_extensions', true), '') <> ''
       OR EXISTS (SELECT FROM pg_roles r
                   WHERE r.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'alloydbsuperuser', 'azure_pg_admin'))
           AS lends
  FROM pg_database d WHERE d.datname = current_database();

-- name: rights_in_schemas
-- What a role may do in each schema but the system's.
SELECT n.nspname::text AS name, pg_get_userbyid(n.nspowner)::text AS owner,
       has_schema_privilege(%(role)s, n.oid, 'CREATE') AS "CREATE", has_schema_privilege(%(role)s, n.oid, 'USAGE') AS "USAGE"
  FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY n.nspname;

-- name: extension_owners
-- Who may alter and drop each extension.
SELECT e.extname::text, pg_get_userbyid(e.extowner)::text FROM pg_extension e ORDER BY e.extname;

-- name: own_extension
-- No statement gives an extension to another owner; only for a scratch cluster that is thrown away.
UPDATE pg_extension SET extowner = (SELECT r.oid FROM pg_roles r WHERE r.rolname = %(owner)s) WHERE extname = %(name)s;

-- name: all_roles
-- The roles of this cluster.
SELECT rolname::text FROM pg_roles ORDER BY rolname;
