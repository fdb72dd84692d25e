-- The restore beside the live tables, the loss report, and the swap.

-- name: tables_in_schema
-- Ordinary and partitioned tables of one schema.
SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relkind IN ('r', 'p')
ORDER BY relname;

-- name: trigger_functions_of
-- Functions that triggers of these tables call, in the same schema, with their argument types.
SELECT DISTINCT function.proname::text, pg_get_function_identity_arguments(function.oid)
FROM pg_trigger AS made
JOIN pg_class AS class ON class.oid = made.tgrelid
JOIN pg_proc AS function ON function.oid = made.tgfoid
WHERE NOT made.tgisinternal
  AND class.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND class.relname = ANY (%(tables)s)
  AND function.pronamespace = class.relnamespace
ORDER BY 1;

-- name: foreign_dependents
-- What hangs on these tables, their row types or their sequences and is not ours: it would follow the replaced ones,
-- so it bars a swap. Bodies of functions count where the server has parsed them (BEGIN ATOMIC).
WITH tables AS (
    SELECT oid, reltype FROM pg_class
    WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relname = ANY (%(tables)s)
), sequences AS (
    SELECT objid AS oid FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
      AND refobjid IN (SELECT oid FROM tables)
      AND objid IN (SELECT oid FROM pg_class WHERE relkind = 'S')
), ours AS (
    SELECT 'pg_class'::regclass AS class, oid FROM tables
    UNION SELECT 'pg_class'::regclass, oid FROM sequences
    UNION SELECT 'pg_type'::regclass, reltype FROM tables
    UNION SELECT 'pg_type'::regclass, typarray FROM pg_type WHERE oid IN (SELECT reltype FROM tables)
), hanging AS (
    SELECT DISTINCT depends.classid, depends.objid
    FROM pg_depend AS depends JOIN ours ON ours.class = depends.refclassid AND ours.oid = depends.refobjid
), owned AS (  -- by which table each of them is
    SELECT hanging.*,
        CASE hanging.classid
            WHEN 'pg_class'::regclass THEN coalesce(
                (SELECT indrelid FROM pg_index WHERE indexrelid = hanging.objid), hanging.objid)
            WHEN 'pg_constraint'::regclass THEN (SELECT conrelid FROM pg_constraint WHERE oid = hanging.objid)
            WHEN 'pg_attrdef'::regclass THEN (SELECT adrelid FROM pg_attrdef WHERE oid = hanging.objid)
            WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = hanging.objid)
            WHEN 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = hanging.objid)
            WHEN 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = hanging.objid)
            WHEN 'pg_statistic_ext'::regclass THEN (SELECT stxrelid FROM pg_statistic_ext WHERE oid = hanging.objid)
        END AS of_table
    FROM hanging
)
SELECT CASE classid
           WHEN 'pg_rewrite'::regclass THEN (
               SELECT format('%%s %%s on our tables', CASE relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END,
                             oid::regclass)
               FROM pg_class WHERE oid = of_table)
           ELSE pg_describe_object(classid, objid, 0) END
FROM owned
WHERE of_table IS NULL AND NOT (classid = 'pg_type'::regclass AND objid IN (SELECT oid FROM ours))
   OR of_table NOT IN (SELECT oid FROM tables UNION SELECT oid FROM sequences)
      AND of_table NOT IN (SELECT reltoastrelid FROM pg_class WHERE oid IN (SELECT oid FROM tables))
UNION
SELECT format('trigger %%s of %%s calls %%s', quote_ident(made.tgname), made.tgrelid::regclass, function.proname)
FROM pg_trigger AS made JOIN pg_proc AS function ON function.oid = made.tgfoid
WHERE NOT made.tgisinternal AND made.tgrelid NOT IN (SELECT oid FROM tables)
  AND made.tgfoid IN (SELECT tgfoid FROM pg_trigger JOIN tables ON tgrelid = tables.oid WHERE NOT tgisinternal)
ORDER BY 1;

-- name: live_columns
-- The live table's columns: is each part of the primary key, and has the staged table it, of the same type?
SELECT live.attname::text,
       EXISTS (SELECT FROM pg_index WHERE indrelid = live.attrelid AND indisprimary AND live.attnum = ANY (indkey)),
       staged.attname IS NOT NULL
FROM pg_attribute AS live
LEFT JOIN pg_attribute AS staged ON staged.attname = live.attname AND staged.atttypid = live.atttypid
    AND staged.attrelid = to_regclass(%(staged)s) AND staged.attnum > 0 AND NOT staged.attisdropped
WHERE live.attrelid = to_regclass(%(live)s) AND live.attnum > 0 AND NOT live.attisdropped
ORDER BY live.attnum;

-- name: compare_rows
-- Rows written since: in the live table only, in the staged one only, and with another content. *<> compares the
-- stored bytes, so that it holds for every type, whatever the search_path. A column that the staged table has not
-- is lost where it holds anything.
SELECT count(*) FILTER (WHERE staged.present IS NULL),
       count(*) FILTER (WHERE live.present IS NULL),
       count(*) FILTER (WHERE live.present AND staged.present
                        AND (live.more OR live.content OPERATOR (pg_catalog.*<>) staged.content))
FROM (SELECT {key}, true AS present, num_nonnulls({more}) > 0 AS more, ROW ({columns}) AS content FROM {live}) AS live
FULL JOIN (SELECT {key}, true AS present, ROW ({columns}) AS content FROM {staged}) AS staged USING ({key});

-- name: grants_on_tables
-- What others than the owner are granted on these tables, their columns and their sequences, where the staged schema
-- has them too. The names of the result are those of grants.py.
WITH live AS (
    SELECT class.oid, class.relname, class.relowner, class.relacl, class.relkind, staged.oid AS staged
    FROM pg_class AS class
    JOIN pg_class AS staged ON staged.relname = class.relname AND staged.relkind = class.relkind
        AND staged.relnamespace = to_regnamespace(quote_ident(%(staged)s))
    WHERE class.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      AND (class.relkind IN ('r', 'p') AND class.relname = ANY (%(tables)s)
           OR class.relkind = 'S' AND EXISTS (
               SELECT FROM pg_depend AS depends JOIN pg_class AS filled ON filled.oid = depends.refobjid
               WHERE depends.classid = 'pg_class'::regclass AND depends.refclassid = 'pg_class'::regclass
                 AND depends.objid = class.oid AND depends.deptype IN ('a', 'i')
                 AND filled.relname = ANY (%(tables)s)))
)
SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, relname::text AS name, NULL AS column,
       acl.privilege_type AS privilege, acl.is_grantable AS grantable, role.rolname::text AS grantee
FROM live CROSS JOIN aclexplode(relacl) AS acl LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
WHERE acl.grantee <> relowner
UNION ALL
SELECT 'TABLE', relname::text, attribute.attname::text, acl.privilege_type, acl.is_grantable, role.rolname::text
FROM live
JOIN pg_attribute AS attribute ON attribute.attrelid = live.oid AND NOT attribute.attisdropped
JOIN pg_attribute AS kept ON kept.attrelid = live.staged AND kept.attname = attribute.attname AND NOT kept.attisdropped
CROSS JOIN aclexplode(attribute.attacl) AS acl LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
WHERE acl.grantee <> relowner;

-- name: generated_columns
-- Columns of the live table that the server computes: they cannot be written.
SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass(%(live)s) AND attnum > 0 AND NOT attisdropped AND attgenerated <> '';

-- name: list_changes
-- What was written since, by key, numbered; for as long as the transaction lasts. As compare_rows counts it.
CREATE TEMPORARY TABLE {changes} ON COMMIT DROP AS
SELECT row_number() OVER () AS kg_number,
       CASE WHEN staged.present IS NULL THEN 'inserted' WHEN live.present IS NULL THEN 'deleted' ELSE 'updated' END
           AS kg_change, {key}
FROM (SELECT {key}, true AS present, ROW ({columns}) AS content FROM {live}) AS live
FULL JOIN (SELECT {key}, true AS present, ROW ({columns}) AS content FROM {staged}) AS staged USING ({key})
WHERE staged.present IS NULL OR live.present IS NULL OR live.content OPERATOR (pg_catalog.*<>) staged.content;

-- name: delete_changed
-- Of the restored table: rows that were deleted or changed since.
DELETE FROM {table} AS restored USING {changes} AS changes WHERE {same} AND {which};

-- name: insert_changed
-- Into the restored table: rows that were inserted or changed since, as they were.
INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {columns} FROM {former} JOIN {changes} AS changes USING ({key}) WHERE kg_change <> 'deleted' AND {which};

-- name: advance_sequence
-- Behind the highest number in use, never back.
SELECT setval({name}, greatest((SELECT max({column}) FROM {table}), made.last_value)) FROM {sequence} AS made;

-- name: column_default
-- A column's default and its type, as the server spells them; no row where there is no such column.
SELECT pg_get_expr(made.adbin, made.adrelid), format_type(present.atttypid, present.atttypmod)
FROM pg_attribute AS present
LEFT JOIN pg_attrdef AS made ON made.adrelid = present.attrelid AND made.adnum = present.attnum
WHERE present.attrelid = to_regclass(%(table)s) AND present.attname = %(column)s AND NOT present.attisdropped;

-- name: waits_to_write_what_it_read
-- A session that waits for this one while it holds a lock on one of our tables.
SELECT waiting.pid FROM pg_stat_activity AS waiting
WHERE pg_backend_pid() = ANY (pg_blocking_pids(waiting.pid))
  AND EXISTS (
    SELECT FROM pg_locks AS held
    JOIN pg_class AS c ON c.oid = held.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE held.pid = waiting.pid AND held.granted AND n.nspname = %(schema)s AND c.relname = ANY (%(tables)s))
LIMIT 1;

-- name: wait_half_a_second
-- For a lock, in this transaction; less where lock_timeout is less.
SELECT set_config('lock_timeout', CASE WHEN setting::integer BETWEEN 1 AND 500 THEN setting ELSE '500' END, true)
FROM pg_settings WHERE name = 'lock_timeout';
