-- Plans that wait for people or clocks, and the decisions on them.

-- name: has_plans
-- Is kg_ops here of a version that knows plans?
SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = 'kg_ops' AND c.relname = 'plans');

-- name: store_plan
INSERT INTO kg_ops.plans (id, environment, hash, started_by, required, flow_run, backup, predicted_seconds, document,
                          detail, expires_at)
VALUES (%(id)s, %(environment)s, %(hash)s, %(started_by)s, %(required)s, %(flow_run)s, %(backup)s,
        %(predicted_seconds)s, %(document)s, %(detail)s, clock_timestamp() + %(expire)s);

-- name: open_plans
-- What waits in this database, oldest first, each with its decisions as they were made.
SELECT plan.id, plan.environment, plan.hash, plan.state, plan.started_by, plan.required, plan.flow_run, plan.backup,
       plan.predicted_seconds, plan.document, plan.detail, plan.created_at, plan.expires_at, plan.scheduled_for,
       clock_timestamp() - coalesce((plan.detail ->> 'watched_at')::timestamptz, plan.created_at) AS silence,
       coalesce((SELECT jsonb_agg(jsonb_build_object('decision', decision, 'name', name, 'note', note,
                                                     'decided_at', decided_at) ORDER BY id)
                 FROM kg_ops.approvals WHERE plan = plan.id), '[]') AS decisions
FROM kg_ops.plans AS plan
WHERE plan.environment = %(environment)s AND plan.state IN ('waiting', 'approved', 'scheduled')
  AND plan.expires_at > clock_timestamp()
ORDER BY plan.created_at;

-- name: plan_now
-- How one plan stands, whatever became of it.
SELECT plan.id, plan.environment, plan.hash,
       CASE WHEN plan.state IN ('waiting', 'approved', 'scheduled') AND plan.expires_at <= clock_timestamp()
            THEN 'expired' ELSE plan.state END AS state,
       plan.started_by, plan.required, plan.flow_run, plan.backup, plan.predicted_seconds, plan.document, plan.detail,
       plan.created_at, plan.expires_at, plan.scheduled_for,
       clock_timestamp() - coalesce((plan.detail ->> 'watched_at')::timestamptz, plan.created_at) AS silence,
       coalesce((SELECT jsonb_agg(jsonb_build_object('decision', decision, 'name', name, 'note', note,
                                                     'decided_at', decided_at) ORDER BY id)
                 FROM kg_ops.approvals WHERE plan = plan.id), '[]') AS decisions
FROM kg_ops.plans AS plan
WHERE plan.id = %(id)s;

-- name: watch_plan
-- The run that waits is there: said at each of its looks, so that whoever decides is told when it no longer is.
UPDATE kg_ops.plans SET detail = detail || jsonb_build_object('watched_at', clock_timestamp())
WHERE id = %(id)s AND state IN ('waiting', 'approved', 'scheduled');

-- name: lock_plan
-- Two who decide at once do so one after the other.
SELECT state FROM kg_ops.plans WHERE id = %(id)s FOR UPDATE;

-- name: record_decision
-- One decision a name; who decides again is not counted twice.
INSERT INTO kg_ops.approvals (plan, decision, name, note) VALUES (%(plan)s, %(decision)s, %(name)s, %(note)s)
ON CONFLICT (plan, lower(name)) DO NOTHING;

-- name: move_plan
-- Its new state, while it is open. Those that end it leave a time.
UPDATE kg_ops.plans
SET state = %(state)s, ended_at = CASE WHEN %(ends)s THEN clock_timestamp() END
WHERE id = %(id)s AND state IN ('waiting', 'approved', 'scheduled');

-- name: schedule_plan
-- It waits for its window; what was decided counts until that is over.
UPDATE kg_ops.plans
SET state = 'scheduled', scheduled_for = %(at)s, expires_at = greatest(expires_at, %(until)s)
WHERE id = %(id)s AND state IN ('waiting', 'approved', 'scheduled');

-- name: supersede_plans
-- One that is prepared anew puts an end to what is open.
UPDATE kg_ops.plans SET state = CASE WHEN expires_at > clock_timestamp() THEN 'superseded' ELSE 'expired' END,
                        ended_at = clock_timestamp()
WHERE environment = %(environment)s AND state IN ('waiting', 'approved', 'scheduled');

-- name: record_release
-- Written beside a revision's ledger row, in its transaction.
UPDATE kg_ops.ledger SET release = %(release)s
WHERE state = 'applied' AND revision = %(revision)s AND operation = %(operation)s;

-- name: past_durations
-- Of each deploy that went well and was rehearsed, oldest first: seconds on the database, seconds on the copy.
SELECT coalesce((SELECT extract(epoch FROM sum(ended.at - begun.at))
                 FROM kg_ops.journal AS begun
                 JOIN kg_ops.journal AS ended ON ended.operation = begun.operation AND ended.step = begun.step
                  AND ended.sequence = begun.sequence + 1 AND ended.state = 'done'
                 WHERE begun.operation = operation.id AND begun.step = 'apply' AND begun.state = 'started'), 0)::float8,
       (SELECT sum((each ->> 'up_seconds')::float8)
        FROM jsonb_array_elements(operation.detail -> 'rehearsal') AS each)::float8
FROM kg_ops.operation AS operation
WHERE operation.kind = 'deploy' AND operation.state = 'done' AND operation.environment = %(environment)s
  AND jsonb_typeof(operation.detail -> 'rehearsal') = 'array' AND operation.detail ? 'migrate'
ORDER BY operation.started_at;

-- name: last_rehearsal
-- What the newest rehearsal of a plan found, and when; no row where it was never rehearsed.
SELECT started_at, detail -> 'rehearsal' FROM kg_ops.operation
WHERE kind = 'deploy' AND environment = %(environment)s AND detail ->> 'plan' = %(plan)s
  AND jsonb_typeof(detail -> 'rehearsal') = 'array'
ORDER BY started_at DESC LIMIT 1;
