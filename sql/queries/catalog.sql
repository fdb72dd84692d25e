-- Everything that stands in the catalog document. The output columns are the document's fields, except those that
-- begin with an underscore, which catalog.py takes up. All run with the search_path of `catalog_session`.

-- name: catalog_session
-- One way of writing for everything that the server deparses, until the transaction ends: names of our schema and of
-- the vector extension's are visible, hence written without a schema, and pg_temp hides none of them.
SELECT set_config('search_path', concat_ws(', ', quote_ident(%(schema)s), quote_ident(
           (SELECT n.nspname FROM pg_catalog.pg_extension e
              JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector')), 'pg_temp'), true),
       set_config('quote_all_identifiers', 'off', true),
       set_config('standard_conforming_strings', 'on', true),
       set_config('TimeZone', 'UTC', true),
       set_config('DateStyle', 'ISO, YMD', true),
       set_config('IntervalStyle', 'postgres', true),
       set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true),
       set_config('xmloption', 'content', true),
       set_config('transaction_read_only', 'on', true);

-- name: catalog_schemas
-- The schemas whose names stand for "ours" in a function's settings: this one and the vector extension's.
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
 UNION SELECT %(schema)s;

-- name: catalog_relations
-- The tables and views of a schema, all or by name, without those that an extension owns.
SELECT c.oid AS _oid, c.relname::text AS name,
       CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                      WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END AS type,
       CASE c.relpersistence WHEN 'p' THEN 'permanent' WHEN 'u' THEN 'unlogged' ELSE 'temporary' END AS persistence,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS row_security_forced,
       CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
       pg_get_expr(c.relpartbound, c.oid) AS partition_bound,
       ARRAY(SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid ORDER BY i.inhseqno)
           AS parents,
       ARRAY(SELECT o FROM unnest(c.reloptions) o ORDER BY o COLLATE "C") AS options,
       CASE c.relreplident WHEN 'd' THEN 'default' WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full'
            ELSE 'index ' || (SELECT x.indexrelid::regclass FROM pg_index x
                               WHERE x.indrelid = c.oid AND x.indisreplident) END AS replica_identity,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END AS query,
       obj_description(c.oid, 'pg_class') AS comment
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND (%(names)s::text[] IS NULL OR c.relname::text = ANY (%(names)s))
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY c.relname;

-- name: catalog_columns
-- The live columns of these tables in their order. A serial column's default is said by meaning, not by the name of its
-- sequence.
SELECT a.attrelid AS _oid, c.relname::text AS table, a.attname::text AS name,
       format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       pg_get_expr(d.adbin, d.adrelid) AS _default,
       EXISTS (SELECT FROM pg_depend uses
                 JOIN pg_depend owned ON owned.classid = 'pg_class'::regclass AND owned.objid = uses.refobjid
                                     AND owned.refclassid = 'pg_class'::regclass AND owned.refobjid = a.attrelid
                                     AND owned.refobjsubid = a.attnum AND owned.deptype = 'a'
                WHERE uses.classid = 'pg_attrdef'::regclass AND uses.objid = d.oid
                  AND uses.refclassid = 'pg_class'::regclass
                  AND pg_get_expr(d.adbin, d.adrelid)
                      = format('nextval(%%L::regclass)', uses.refobjid::regclass)) AS _own_sequence,
       CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
       CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END AS generated,
       CASE WHEN a.attcollation <> t.typcollation
            THEN (SELECT CASE WHEN NOT pg_collation_is_visible(l.oid) THEN l.collnamespace::regnamespace || '.' ELSE '' END
                      || quote_ident(l.collname) FROM pg_collation l WHERE l.oid = a.attcollation) END AS collation,
       CASE WHEN a.attstorage <> t.typstorage
            THEN CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main'
                                   ELSE 'extended' END END AS storage,
       CASE {compression} WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
       col_description(a.attrelid, a.attnum) AS comment
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = ANY (%(tables)s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum;

-- name: catalog_constraints
-- Constraints of these tables. NOT NULL is a flag of the column (18 has a constraint for each, others have not), and
-- constraint triggers stand among the triggers.
SELECT k.conrelid AS _oid, c.relname::text AS table, k.conname::text AS name,
       CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'c' THEN 'check'
                      WHEN 'f' THEN 'foreign key' ELSE 'exclusion' END AS type,
       pg_get_constraintdef(k.oid) AS definition,
       pg_get_expr(k.conbin, k.conrelid) AS _check,
       CASE WHEN k.contype = 'x'
            THEN ARRAY(SELECT o::regoperator::text FROM unnest(k.conexclop) o) END AS operators,
       obj_description(k.oid, 'pg_constraint') AS comment
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
 WHERE k.conrelid = ANY (%(tables)s) AND k.contype IN ('p', 'u', 'c', 'f', 'x')
 ORDER BY c.relname, k.conname;

-- name: catalog_indexes
-- Indexes of these tables, key by key. `constraint` marks those that a constraint keeps.
SELECT x.indrelid AS _oid, c.relname::text AS table, i.relname::text AS name, m.amname::text AS method,
       (SELECT jsonb_agg(jsonb_build_object(
                   'text', pg_get_indexdef(x.indexrelid, k, false),
                   'expression', x.indkey[k - 1] = 0,
                   'operator_class', CASE WHEN pg_opclass_is_visible(o.oid) THEN o.opcname
                                          ELSE o.opcnamespace::regnamespace || '.' || quote_ident(o.opcname) END,
                   'collation', CASE WHEN x.indcollation[k - 1] NOT IN (0, ia.attcollation_of_column)
                                     THEN (SELECT quote_ident(l.collname) FROM pg_collation l
                                            WHERE l.oid = x.indcollation[k - 1]) END,
                   -- Without what 17.12 and its siblings note there for themselves: another number in every table.
                   'options', (SELECT array_agg(o) FROM unnest(ia.attoptions) AS o WHERE left(o, 10) <> 'pg_attver='),
                   'order', CASE WHEN m.amname = 'btree' THEN x.indoption[k - 1] ELSE 0 END) ORDER BY k)
          FROM generate_series(1, x.indnkeyatts) k
          JOIN pg_opclass o ON o.oid = x.indclass[k - 1]
          JOIN LATERAL (SELECT p.attoptions, COALESCE(b.attcollation, p.attcollation) AS attcollation_of_column
                          FROM pg_attribute p
                          LEFT JOIN pg_attribute b ON b.attrelid = x.indrelid AND b.attnum = x.indkey[k - 1]
                                                  AND b.attnum <> 0
                         WHERE p.attrelid = x.indexrelid AND p.attnum = k) ia ON true) AS _keys,
       ARRAY(SELECT pg_get_indexdef(x.indexrelid, k, false)
               FROM generate_series(x.indnkeyatts + 1, x.indnatts) k) AS include,
       pg_get_expr(x.indpred, x.indrelid) AS _predicate,
       x.indisunique AS "unique", {nulls_not_distinct} AS nulls_not_distinct,
       x.indisvalid AS valid, x.indisready AS ready,
       i.reloptions AS _options,
       (SELECT k.conname::text FROM pg_constraint k
         WHERE k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')) AS constraint,
       obj_description(x.indexrelid, 'pg_class') AS comment
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid
  JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_am m ON m.oid = i.relam
 WHERE x.indrelid = ANY (%(tables)s)
 ORDER BY i.relname;

-- name: catalog_triggers
-- Triggers that people made on these tables.
SELECT t.tgrelid AS _oid, c.relname::text AS table, t.tgname::text AS name,
       CASE WHEN t.tgtype & 2 <> 0 THEN 'before' WHEN t.tgtype & 64 <> 0 THEN 'instead of' ELSE 'after' END AS timing,
       array_remove(ARRAY[CASE WHEN t.tgtype & 4 <> 0 THEN 'insert' END, CASE WHEN t.tgtype & 8 <> 0 THEN 'delete' END,
                          CASE WHEN t.tgtype & 16 <> 0 THEN 'update' END,
                          CASE WHEN t.tgtype & 32 <> 0 THEN 'truncate' END], NULL) AS events,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr) ORDER BY a.attname) AS of_columns,
       CASE WHEN t.tgtype & 1 <> 0 THEN 'row' ELSE 'statement' END AS level,
       substring(pg_get_triggerdef(t.oid) FROM ' WHEN \((.*)\) EXECUTE FUNCTION ') AS _when,
       t.tgfoid AS _function, t.tgfoid::regprocedure::text AS function, encode(t.tgargs, 'escape') AS arguments,
       t.tgconstraint <> 0 AS "constraint", t.tgdeferrable AS deferrable, t.tginitdeferred AS initially_deferred,
       t.tgoldtable::text AS old_table, t.tgnewtable::text AS new_table,
       CASE t.tgenabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'enabled on replicas only'
                        ELSE 'always enabled' END AS state,
       obj_description(t.oid, 'pg_trigger') AS comment
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE t.tgrelid = ANY (%(tables)s) AND NOT t.tgisinternal
 ORDER BY c.relname, t.tgname;

-- name: catalog_functions
-- The functions that our triggers call, and those of the schema, all or by name; not the system's, not an extension's.
-- A body in SQL-standard form is written by the server, another is the text that was given.
SELECT p.oid AS _oid, p.oid::regprocedure::text AS _signature, p.proname::text AS name,
       CASE p.prokind WHEN 'f' THEN 'function' WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate'
                      ELSE 'window function' END AS type,
       l.lanname::text AS language, pg_get_function_arguments(p.oid) AS arguments,
       pg_get_function_result(p.oid) AS returns,
       CASE WHEN p.prosrc = '' AND l.lanname = 'sql' AND p.prokind IN ('f', 'p')
            THEN substring(pg_get_functiondef(p.oid) FROM '\n ?((?:BEGIN ATOMIC|RETURN).*)$')
            ELSE p.prosrc END AS body,
       p.proconfig AS _settings,
       CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END AS volatility,
       p.prosecdef AS security_definer, p.proisstrict AS strict, p.proleakproof AS leakproof,
       CASE p.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS parallel,
       obj_description(p.oid, 'pg_proc') AS comment
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
 WHERE (p.oid = ANY (%(functions)s)
        OR (n.nspname = %(schema)s AND (%(names)s::text[] IS NULL OR p.proname::text = ANY (%(names)s))))
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 2;

-- name: catalog_policies
-- Row security policies of these tables.
SELECT p.polrelid AS _oid, c.relname::text AS table, p.polname::text AS name,
       CASE p.polcmd WHEN '*' THEN 'all' WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update'
                     ELSE 'delete' END AS command,
       p.polpermissive AS permissive,
       ARRAY(SELECT CASE WHEN o = 0 THEN 'public' ELSE pg_get_userbyid(o)::text END
               FROM unnest(p.polroles) o ORDER BY 1) AS roles,
       pg_get_expr(p.polqual, p.polrelid) AS _using, pg_get_expr(p.polwithcheck, p.polrelid) AS _check,
       obj_description(p.oid, 'pg_policy') AS comment
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
 WHERE p.polrelid = ANY (%(tables)s)
 ORDER BY c.relname, p.polname;

-- name: catalog_sequences
-- The sequences that columns of these tables own, and those of the schema that no column owns, all or by name. Their
-- values are data.
SELECT c.oid AS _oid, t.relname::text AS table, a.attname::text AS column, c.relname::text AS name,
       format_type(s.seqtypid, NULL) AS type, s.seqincrement AS increment, s.seqmin AS minimum, s.seqmax AS maximum,
       s.seqstart AS start, s.seqcache AS cache, s.seqcycle AS cycle, obj_description(c.oid, 'pg_class') AS comment
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
                       AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
  LEFT JOIN pg_class t ON t.oid = d.refobjid
  LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE (d.refobjid = ANY (%(tables)s)
        OR (d.refobjid IS NULL AND n.nspname = %(schema)s
            AND (%(names)s::text[] IS NULL OR c.relname::text = ANY (%(names)s))))
   AND NOT EXISTS (SELECT FROM pg_depend e
                    WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 ORDER BY c.relname;

-- name: catalog_statistics
-- Statistics objects on these tables: their definition, not what was gathered.
SELECT s.stxrelid AS _oid, c.relname::text AS table, s.stxname::text AS name,
       ARRAY(SELECT CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END
               FROM unnest(s.stxkind) k WHERE k <> 'e' ORDER BY 1) AS kinds,
       substring(pg_get_statisticsobjdef(s.oid) FROM ' ON (.*) FROM ') AS "on",
       obj_description(s.oid, 'pg_statistic_ext') AS comment
  FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid
 WHERE s.stxrelid = ANY (%(tables)s)
 ORDER BY c.relname, s.stxname;

-- name: catalog_rules
-- Rewrite rules on these tables: one can swallow inserts. A view's own query stands with the view.
SELECT r.ev_class AS _oid, c.relname::text AS table, r.rulename::text AS name,
       CASE r.ev_type WHEN '1' THEN 'select' WHEN '2' THEN 'update' WHEN '3' THEN 'insert' ELSE 'delete' END AS event,
       CASE r.ev_enabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'enabled on replicas only'
                         ELSE 'always enabled' END AS state,
       split_part(pg_get_ruledef(r.oid),
                  ' TO ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname), 2) AS definition,
       obj_description(r.oid, 'pg_rewrite') AS comment
  FROM pg_rewrite r
  JOIN pg_class c ON c.oid = r.ev_class
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.ev_class = ANY (%(tables)s) AND r.rulename <> '_RETURN'
 ORDER BY c.relname, r.rulename;

-- name: catalog_privileges
-- Who may do what, with what an untouched object's owner and PUBLIC have by default; the owner is called "owner".
WITH objects(oid, owner, acl) AS (
    SELECT c.oid, c.relowner, COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
                                                            c.relowner))
      FROM pg_class c WHERE c.oid = ANY (%(relations)s)
    UNION ALL
    SELECT p.oid, p.proowner, COALESCE(p.proacl, acldefault('f', p.proowner))
      FROM pg_proc p WHERE p.oid = ANY (%(functions)s)
), grants(oid, owner, suffix, grant_) AS (
    SELECT o.oid, o.owner, '', aclexplode(o.acl) FROM objects o
    UNION ALL
    SELECT c.oid, c.relowner, ' (' || quote_ident(a.attname) || ')', aclexplode(a.attacl)
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
     WHERE c.oid = ANY (%(relations)s)
)
SELECT DISTINCT oid AS _oid,
       CASE (grant_).grantee WHEN owner THEN 'owner' WHEN 0 THEN 'public'
                             ELSE quote_ident(pg_get_userbyid((grant_).grantee)) END AS grantee,
       (grant_).privilege_type || suffix AS privilege, (grant_).is_grantable AS grantable
  FROM grants
 ORDER BY 1, 2, 3, 4;

-- name: names_in_use
-- What a schema holds under any of these names: relations of every kind, with the table of an index, and functions.
SELECT CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view'
                      WHEN 'm' THEN 'materialized view' WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table'
                      ELSE 'table' END AS kind,
       c.relname::text AS name,
       (SELECT t.relname::text FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid WHERE x.indexrelid = c.oid)
           AS table
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname::text = ANY (%(relations)s)
 UNION ALL
SELECT 'function', p.proname::text, NULL
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %(schema)s AND p.proname::text = ANY (%(functions)s)
 ORDER BY 1, 2;

-- name: expected_environment
-- Everything outside the migrations that can change what they make here, as one line of text: the key of the cache.
SELECT jsonb_build_array(
           current_setting('server_version_num'), current_user, current_setting('default_table_access_method'),
           current_setting('default_toast_compression', true), current_setting('check_function_bodies'),
           (SELECT jsonb_build_array(e.extversion, n.nspname) FROM pg_extension e
              JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'),
           (SELECT jsonb_agg(r.rolname ORDER BY r.rolname) FROM pg_roles r WHERE r.rolname NOT LIKE 'pg\_%%'),
           (SELECT jsonb_agg(ARRAY[d.defaclnamespace::regnamespace::text, d.defaclobjtype::text, d.defaclacl::text]
                             ORDER BY d.defaclnamespace, d.defaclobjtype)
              FROM pg_default_acl d WHERE d.defaclrole = (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)))::text;

-- name: default_privileges
-- ALTER DEFAULT PRIVILEGES of a schema, for what this role makes there: Supabase has them on public.
SELECT CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
                            ELSE 'TYPES' END AS objects,
       a.privilege_type AS privilege, a.is_grantable AS grantable,
       CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END AS grantee
  FROM pg_default_acl d
  JOIN pg_namespace n ON n.oid = d.defaclnamespace
 CROSS JOIN LATERAL aclexplode(d.defaclacl) a
 WHERE n.nspname = %(schema)s AND d.defaclrole = (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)
 ORDER BY 1, 2, 4;

-- name: locked_elsewhere
-- Tables and sequences outside a schema, the system's aside, that this transaction has locked for more than reading.
SELECT DISTINCT format('%%I.%%I', n.nspname, c.relname), c.relkind = 'S'
  FROM pg_locks l
  JOIN pg_class c ON c.oid = l.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
   AND n.nspname NOT IN (%(schema)s, 'pg_catalog', 'pg_toast', 'information_schema')
 ORDER BY 1;

-- name: relations_elsewhere
-- Tables, views, indexes and sequences outside a schema, the system's aside.
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN (%(schema)s, 'information_schema')
   AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'i', 'I', 'S');

-- name: sequence_guard
-- Functions before pg_catalog's own in the search_path, that move a sequence of one schema only: no rollback takes a
-- sequence back.
CREATE FUNCTION {guard}.own(moved regclass) RETURNS regclass LANGUAGE plpgsql STABLE AS $guard$
BEGIN
    IF (SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = moved) <> to_regnamespace(quote_ident({schema})) THEN
        RAISE EXCEPTION 'the sequence % is not made by the migrations', (
            SELECT format('%I.%I', relnamespace::regnamespace, relname) FROM pg_catalog.pg_class WHERE oid = moved)
        USING ERRCODE = 'feature_not_supported',
              HINT = 'name one that a migration made, and no schema before it; it was not moved';
    END IF;
    RETURN moved;
END $guard$;
CREATE FUNCTION {guard}.nextval(regclass) RETURNS bigint LANGUAGE plpgsql
    AS $guard$ BEGIN RETURN pg_catalog.nextval({guard}.own($1)); END $guard$;
CREATE FUNCTION {guard}.setval(regclass, bigint) RETURNS bigint LANGUAGE plpgsql
    AS $guard$ BEGIN RETURN pg_catalog.setval({guard}.own($1), $2); END $guard$;
CREATE FUNCTION {guard}.setval(regclass, bigint, boolean) RETURNS bigint LANGUAGE plpgsql
    AS $guard$ BEGIN RETURN pg_catalog.setval({guard}.own($1), $2, $3); END $guard$;

-- name: kept_from_migrations
-- What a transaction that will be rolled back must take its own rights to, for as long as it lasts: sequences, which do
-- not come back, and tables whose identity columns move one without asking for a right. Not the scratch schema's.
SELECT CASE c.relkind WHEN 'S' THEN 'USAGE, UPDATE ON SEQUENCE' ELSE 'INSERT, UPDATE ON TABLE' END AS rights,
       n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN (%(schema)s, 'information_schema', 'kg_ops')
   AND pg_has_role(c.relowner, 'USAGE') AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
   AND (c.relkind = 'S' OR c.relkind IN ('r', 'p')
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attidentity <> '' AND NOT a.attisdropped))
 ORDER BY 2, 3;

-- name: sequences_elsewhere
-- The sequences outside a schema whose place we may read: no missing right keeps a superuser from moving one, nor a
-- function that has its owner's rights.
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname <> %(schema)s
   AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
 ORDER BY 1, 2;

-- name: way_back_of_sequence
-- What puts a sequence where it stands now; read without the lock by which a move is told.
SELECT format('%I.%I', {schema}::text, {name}::text),
       format('SELECT setval(%L, %s, %s)', format('%I.%I', {schema}::text, {name}::text), last_value, is_called)
  FROM {sequence}

-- name: database_and_role
-- Where and who we are.
SELECT current_database(), current_user;
