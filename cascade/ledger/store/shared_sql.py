"""What several replicas of a service share in PostgreSQL, and the functions that keep it true.

Each function is one statement to its caller, so that it costs one round trip and is whole or not
at all. Within one, every statement sees what was committed before it began: what is read after a
row was locked is therefore at least as new as whatever the row's last owner wrote.

All lock the accounts in the order of their keys, so that no two wait for one another; a transaction
releases one replica at most, as the keys of the next may come before its own.
"""

from __future__ import annotations

SHARED_TABLES = (
    # Of a service's keys, with what is put aside for the requests under way.
    """CREATE TABLE service_accounts (
        key_id TEXT NOT NULL PRIMARY KEY,
        reserved_usd {money} NOT NULL
    )""",
    # What entries with the tag `key` cost, by days of UTC; `unknown` counts those without a cost.
    """CREATE TABLE service_spent (
        key_id TEXT NOT NULL,
        day {day} NOT NULL,
        cost_usd {money} NOT NULL,
        unknown {count} NOT NULL,
        PRIMARY KEY (key_id, day)
    )""",
    # Processes that serve, each until its lease ends; `since` it has held it without a gap.
    """CREATE TABLE service_replicas (
        id TEXT NOT NULL PRIMARY KEY,
        since {time} NOT NULL,
        until {time} NOT NULL
    )""",
    # `lost_usd`: what calls count that a replica without a lease has begun and not ended.
    """CREATE TABLE service_reservations (
        id TEXT NOT NULL PRIMARY KEY,
        key_id TEXT NOT NULL,
        replica_id TEXT NOT NULL,
        per_run_usd {money} NOT NULL,
        runs {count} NOT NULL,
        made_at {time} NOT NULL,
        lost_usd {money}
    )""",
    "CREATE INDEX service_reservations_replica ON service_reservations (replica_id)",
)

ROLLOUT_TABLES = (
    # The calibrations of cascades, each as the file that `cascade calibrate` wrote.
    """CREATE TABLE service_calibrations (
        cascade TEXT NOT NULL,
        version {count} NOT NULL,
        document TEXT NOT NULL,
        note TEXT NOT NULL,
        made_at {time} NOT NULL,
        PRIMARY KEY (cascade, version)
    )""",
    # The last one of a cascade that was switched to is in use; version 0 is its configuration's.
    """CREATE TABLE service_rollouts (
        number {serial},
        cascade TEXT NOT NULL,
        version {count} NOT NULL,
        begun_at {time} NOT NULL,
        switched_at {time},
        given_up_at {time}
    )""",
    # Which replica could make a cascade with it, and since when it uses it.
    """CREATE TABLE service_prepared (
        replica_id TEXT NOT NULL,
        number {count} NOT NULL,
        problem TEXT,
        prepared_at {time} NOT NULL,
        switched_at {time},
        PRIMARY KEY (replica_id, number)
    )""",
)

EVIDENCE_TABLES = (
    # What each process has seen of harm since `since`; `part` is its watch.
    """CREATE TABLE service_evidence (
        place TEXT NOT NULL,
        part TEXT NOT NULL,
        since {time} NOT NULL,
        max_harm DOUBLE PRECISION NOT NULL,
        n {count} NOT NULL,
        log_e DOUBLE PRECISION NOT NULL,
        at {time} NOT NULL,
        PRIMARY KEY (place, part)
    )""",
)

_ADD_UP = """
    SELECT tags ->> 'key' AS key_id, CAST(at AT TIME ZONE 'UTC' AS date) AS day,
        coalesce(sum(coalesce(cost_usd, assumed_usd)), 0) AS cost_usd,
        count(*) FILTER (WHERE coalesce(cost_usd, assumed_usd) IS NULL) AS unknown
    FROM {entries}
    WHERE tags ->> 'key' IS NOT NULL AND coalesce(cost_usd, assumed_usd, 1) <> 0
    GROUP BY 1, 2 ORDER BY 1, 2
"""

_COUNT = (
    """
CREATE OR REPLACE FUNCTION cascade_count_spent() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO service_spent AS known (key_id, day, cost_usd, unknown)
    """
    + _ADD_UP.replace("{entries}", "written")
    + """
    ON CONFLICT (key_id, day) DO UPDATE SET
        cost_usd = known.cost_usd + excluded.cost_usd, unknown = known.unknown + excluded.unknown;
    RETURN NULL;
END $$
"""
)

_SPENT = """
CREATE OR REPLACE FUNCTION cascade_spent(whose TEXT, unknown_usd NUMERIC, OUT day DATE,
    OUT day_usd NUMERIC, OUT month_usd NUMERIC, OUT reserved_usd NUMERIC)
LANGUAGE plpgsql AS $$
BEGIN
    day := CAST(clock_timestamp() AT TIME ZONE 'UTC' AS date);
    SELECT coalesce(sum(s.cost_usd + s.unknown * unknown_usd) FILTER (WHERE s.day >= $3), 0),
        coalesce(sum(s.cost_usd + s.unknown * unknown_usd), 0)
    INTO day_usd, month_usd FROM service_spent s
    WHERE s.key_id = whose AND s.day >= CAST(date_trunc('month', CAST($3 AS timestamp)) AS date);
    SELECT coalesce(sum(a.reserved_usd), 0) INTO reserved_usd
    FROM service_accounts a WHERE a.key_id = whose;
END $$
""".replace("$3", "cascade_spent.day")

_PUT_ASIDE = """
CREATE OR REPLACE FUNCTION cascade_put_aside(replica TEXT, lease_s DOUBLE PRECISION,
    unknown_usd NUMERIC, asked JSONB)
RETURNS TABLE (id TEXT, granted BOOLEAN, day DATE, day_usd NUMERIC, month_usd NUMERIC,
    reserved_usd NUMERIC)
LANGUAGE plpgsql AS $$
DECLARE
    keys TEXT[] := ARRAY(SELECT DISTINCT a ->> 'key' FROM jsonb_array_elements(asked) a);
    one RECORD;
    amount NUMERIC;
BEGIN
    INSERT INTO service_replicas VALUES
        (replica, clock_timestamp(), clock_timestamp() + make_interval(secs => lease_s))
    ON CONFLICT DO NOTHING;
    INSERT INTO service_accounts SELECT k, 0 FROM unnest(keys) k ORDER BY k ON CONFLICT DO NOTHING;
    PERFORM 1 FROM service_accounts WHERE key_id = ANY (keys) ORDER BY key_id FOR UPDATE;
    FOR one IN SELECT * FROM jsonb_to_recordset(asked) AS x(id TEXT, key TEXT, per_run NUMERIC,
        runs BIGINT, day_usd NUMERIC, month_usd NUMERIC)
    LOOP
        amount := one.per_run * one.runs;
        SELECT one.id, s.day, s.day_usd, s.month_usd, s.reserved_usd
        INTO id, day, day_usd, month_usd, reserved_usd FROM cascade_spent(one.key, unknown_usd) s;
        granted := EXISTS (SELECT 1 FROM service_reservations r WHERE r.id = one.id);
        IF NOT granted
            AND (one.day_usd IS NULL OR day_usd + reserved_usd + amount <= one.day_usd)
            AND (one.month_usd IS NULL OR month_usd + reserved_usd + amount <= one.month_usd)
        THEN
            INSERT INTO service_reservations
            VALUES (one.id, one.key, replica, one.per_run, one.runs, clock_timestamp());
            UPDATE service_accounts a SET reserved_usd = a.reserved_usd + amount
            WHERE a.key_id = one.key;
            granted := TRUE;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$
"""

_GIVE_BACK = """
CREATE OR REPLACE FUNCTION cascade_give_back(settled JSONB) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    keys TEXT[] := ARRAY(
        SELECT DISTINCT r.key_id FROM service_reservations r
        JOIN jsonb_to_recordset(settled) AS x(id TEXT) USING (id));
    one RECORD;
BEGIN
    PERFORM 1 FROM service_accounts WHERE key_id = ANY (keys) ORDER BY key_id FOR UPDATE;
    FOR one IN SELECT r.*, x.left_over FROM service_reservations r
        JOIN jsonb_to_recordset(settled) AS x(id TEXT, left_over BIGINT) USING (id)
    LOOP
        IF one.lost_usd IS NOT NULL THEN
            UPDATE service_spent s SET cost_usd = s.cost_usd - one.lost_usd
            WHERE s.key_id = one.key_id AND s.day = CAST(one.made_at AT TIME ZONE 'UTC' AS date);
        ELSIF one.left_over < one.runs THEN
            UPDATE service_accounts a
            SET reserved_usd = a.reserved_usd - one.per_run_usd * (one.runs - one.left_over)
            WHERE a.key_id = one.key_id;
        END IF;
        IF one.left_over > 0 AND one.lost_usd IS NULL THEN
            UPDATE service_reservations r SET runs = one.left_over WHERE r.id = one.id;
        ELSE
            DELETE FROM service_reservations r WHERE r.id = one.id;
        END IF;
    END LOOP;
END $$
"""

_RELEASE = """
CREATE OR REPLACE FUNCTION cascade_release(replica TEXT) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    keys TEXT[] := ARRAY(
        SELECT DISTINCT key_id FROM service_reservations
        WHERE replica_id = replica AND lost_usd IS NULL);
    one RECORD;
BEGIN
    PERFORM 1 FROM service_accounts WHERE key_id = ANY (keys) ORDER BY key_id FOR UPDATE;
    FOR one IN
        SELECT r.id, r.per_run_usd * r.runs AS aside, coalesce(r.key_id, b.key_id) AS key_id,
            CAST(coalesce(r.made_at, b.begun_at) AT TIME ZONE 'UTC' AS date) AS day,
            CASE WHEN r.id IS NULL THEN b.bound * b.runs
                ELSE r.per_run_usd * least(r.runs, coalesce(b.runs, 0)) END AS lost
        FROM (SELECT * FROM service_reservations
            WHERE replica_id = replica AND lost_usd IS NULL) r
        FULL JOIN (
            SELECT tags ->> 'reservation' AS id, tags ->> 'key' AS key_id,
                min(begun_at) AS begun_at, count(DISTINCT run_id) AS runs,
                max(CAST(substring(tags ->> 'reserved_usd' FROM '^[0-9]+[.]?[0-9]*$') AS numeric))
                    AS bound
            FROM ledger_attempts WHERE starts_with(tags ->> 'reservation', replica || '.')
                AND NOT EXISTS (SELECT 1 FROM service_reservations l
                    WHERE l.id = tags ->> 'reservation' AND l.lost_usd IS NOT NULL)
            GROUP BY 1, 2) b ON b.id = r.id AND b.key_id = r.key_id
        ORDER BY 3
    LOOP
        IF one.lost > 0 THEN
            INSERT INTO service_spent AS known (key_id, day, cost_usd, unknown)
            VALUES (one.key_id, one.day, one.lost, 0)
            ON CONFLICT (key_id, day) DO UPDATE SET cost_usd = known.cost_usd + excluded.cost_usd;
        END IF;
        UPDATE service_accounts a SET reserved_usd = a.reserved_usd - one.aside
        WHERE a.key_id = one.key_id AND one.aside IS NOT NULL;
        IF one.lost > 0 THEN
            UPDATE service_reservations r SET lost_usd = one.lost WHERE r.id = one.id;
        ELSE
            DELETE FROM service_reservations r WHERE r.id = one.id;
        END IF;
    END LOOP;
    DELETE FROM service_replicas WHERE service_replicas.id = replica;
END $$
"""

_BEAT = """
CREATE OR REPLACE FUNCTION cascade_beat(replica TEXT, lease_s DOUBLE PRECISION)
RETURNS TABLE (ended TEXT)
LANGUAGE plpgsql AS $$
DECLARE
    lease INTERVAL := make_interval(secs => lease_s);
    steady BOOLEAN;
BEGIN
    INSERT INTO service_replicas AS mine VALUES
        (replica, clock_timestamp(), clock_timestamp() + lease)
    ON CONFLICT (id) DO UPDATE SET
        since = CASE WHEN mine.until < clock_timestamp() THEN clock_timestamp() ELSE mine.since END,
        until = excluded.until
    RETURNING mine.since + lease < clock_timestamp() INTO steady;
    IF NOT steady THEN
        RETURN;
    END IF;
    SELECT r.id INTO ended FROM service_replicas r
    WHERE r.until < clock_timestamp() ORDER BY r.id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        PERFORM cascade_release(ended);
        RETURN NEXT;
    END IF;
END $$
"""

SHARED_FUNCTIONS = (
    _COUNT,
    # It locks the table, so that between the sum and the first entry that is counted there is none.
    """CREATE TRIGGER cascade_count_spent AFTER INSERT ON ledger_entries
        REFERENCING NEW TABLE AS written
        FOR EACH STATEMENT EXECUTE FUNCTION cascade_count_spent()""",
    "INSERT INTO service_spent (key_id, day, cost_usd, unknown)"
    + _ADD_UP.replace("{entries}", "ledger_entries"),
    _SPENT,
    _PUT_ASIDE,
    _GIVE_BACK,
    _RELEASE,
    _BEAT,
)
"""For PostgreSQL, after `SHARED_TABLES`."""
