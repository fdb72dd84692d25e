-- name: probe_session
-- The session of probes: short waits, our names, and an error in place of rows that row security would hide.
SELECT set_config('search_path', %(search_path)s, true), set_config('lock_timeout', '1s', true),
       set_config('row_security', 'off', true);

-- name: constraints_at_once
-- A deferred unique constraint would refuse a duplicate only at COMMIT, which never comes.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: probe_columns
-- The columns of these tables, with what is needed to make up a row: type, whether a value must be given, and whether
-- the default would draw from a sequence. An enum comes with its first label.
SELECT c.relname::text AS table, a.attname::text AS name, b.typname::text AS type, b.typcategory::text AS category,
       a.atttypmod AS modifier, a.attnotnull AND d.oid IS NULL AND a.attidentity = '' AS required,
       a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid), '') LIKE '%%nextval(%%' AS draws,
       a.attgenerated <> '' AS generated,
       coalesce((SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder LIMIT 1), '')
           AS label
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relname = ANY (%(tables)s)
   AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY c.relname, a.attnum;

-- name: probe_uniques
-- What refuses duplicates in these tables: unique indexes over plain columns and without a condition, with or without
-- a constraint.
SELECT c.relname::text AS table, i.relname::text AS name, x.indisprimary AS primary,
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey[0:x.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns
  FROM pg_index x
  JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_class i ON i.oid = x.indexrelid
 WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relname = ANY (%(tables)s)
   AND x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL
 ORDER BY c.relname, x.indisprimary DESC, i.relname;

-- name: vector_indexes
-- The indexes of pgvector's methods on these tables, with the distance operator that their class orders by.
SELECT c.relname::text AS table, a.attname::text AS column, i.relname::text AS name, m.amname::text AS method,
       o.opcname::text AS operator_class, x.indisvalid AND x.indisready AS usable, c.reltuples::bigint AS rows,
       (SELECT p.oprname::text FROM pg_amop f JOIN pg_operator p ON p.oid = f.amopopr
         WHERE f.amopfamily = o.opcfamily AND f.amoppurpose = 'o' AND f.amoplefttype = o.opcintype LIMIT 1) AS operator
  FROM pg_index x
  JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_class i ON i.oid = x.indexrelid
  JOIN pg_am m ON m.oid = i.relam AND m.amname IN ('hnsw', 'ivfflat')
  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
  JOIN pg_opclass o ON o.oid = x.indclass[0]
 WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relname = ANY (%(tables)s)
 ORDER BY c.relname, i.relname;

-- name: numbering_sequences
-- The sequences that number columns of these tables.
SELECT c.relname::text AS table, a.attname::text AS column, s.relname::text AS name
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_class c ON c.oid = d.refobjid
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
   AND c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND c.relname = ANY (%(tables)s)
 ORDER BY 1, 2;

-- name: sequence_and_maximum
-- Where a sequence stands (null before its first number), and the greatest number in its column.
SELECT CASE WHEN s.is_called THEN s.last_value END, (SELECT max({column}) FROM {table}) FROM {sequence} s;

-- name: tables_present
-- Which of these tables are there.
SELECT relname::text FROM pg_class
 WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relname = ANY (%(tables)s) AND relkind IN ('r', 'p');

-- name: least_number
-- A number below every one in the column, and below zero.
SELECT least(min({column}), 0) - 1 FROM {table};

-- name: explain_nearest
-- How the ten nearest would be searched.
EXPLAIN (FORMAT JSON) SELECT 1 FROM {table} ORDER BY {column} {operator} {vector} LIMIT 10;

-- name: nearest
-- The nearest row by the index's own distance.
SELECT {key}::text, {column} {operator} {vector} FROM {table} ORDER BY {column} {operator} {vector} LIMIT 1;

-- name: insert_probe
INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values});

-- name: touch_probe
-- Sets updated_at to a time long past; a trigger that works sets it to the transaction's own.
UPDATE {table} SET updated_at = '2000-01-01' WHERE {where} RETURNING updated_at = now();

-- name: delete_probe
DELETE FROM {table} WHERE {where};
