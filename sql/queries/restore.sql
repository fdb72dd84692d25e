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
-- What hangs on these tables and is not ours: it would follow the replaced table, so it bars a swap.
WITH ours AS (
    SELECT oid, relname FROM pg_class
    WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relname = ANY (%(tables)s)
)
SELECT DISTINCT format('%%s %%s on %%s',
           CASE class.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, class.oid::regclass, ours.relname)
FROM ours
JOIN pg_depend AS depends ON depends.refobjid = ours.oid AND depends.refclassid = 'pg_class'::regclass
JOIN pg_rewrite AS rule ON rule.oid = depends.objid AND depends.classid = 'pg_rewrite'::regclass
JOIN pg_class AS class ON class.oid = rule.ev_class AND class.oid <> ours.oid
UNION
SELECT format('foreign key %%s of %%s on %%s', quote_ident(conname), conrelid::regclass, ours.relname)
FROM ours JOIN pg_constraint ON confrelid = ours.oid AND contype = 'f'
WHERE conrelid NOT IN (SELECT oid FROM ours)
UNION
SELECT format('publication %%s of %%s', quote_ident(pubname), ours.relname)
FROM ours JOIN pg_publication_rel ON prrelid = ours.oid JOIN pg_publication ON pg_publication.oid = prpubid
UNION
SELECT format('table %%s inherits from %%s', inhrelid::regclass, ours.relname)
FROM ours JOIN pg_inherits ON inhparent = ours.oid
WHERE inhrelid NOT IN (SELECT oid FROM ours)
UNION
SELECT format('trigger %%s of %%s calls %%s', quote_ident(made.tgname), made.tgrelid::regclass, function.proname)
FROM pg_trigger AS made JOIN pg_proc AS function ON function.oid = made.tgfoid
WHERE NOT made.tgisinternal AND made.tgrelid NOT IN (SELECT oid FROM ours)
  AND made.tgfoid IN (SELECT tgfoid FROM pg_trigger JOIN ours ON tgrelid = ours.oid WHERE NOT tgisinternal)
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
