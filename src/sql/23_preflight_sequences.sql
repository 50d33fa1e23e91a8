-- Preflight, part three: sequences behind realtime tables. While both sides are
-- written each steps by twice its increment, in turn with the one behind the
-- column of the same name on the other side (endpoint/sequence.h).

-- The sequences that take turns, each with its partner: the only one behind the
-- column there, or else the one of the same name; null where there is none.
CREATE FUNCTION migrate_tiers.preflight_paired_sequences(m integer, source jsonb, target jsonb)
    RETURNS TABLE (relation oid, target_table text, "column" text, oid bigint, name text, owned boolean, increment numeric,
                   start numeric, minimum numeric, maximum numeric, cache numeric, cycle boolean, last numeric,
                   lowest numeric, highest numeric, partner bigint, partner_name text, partner_owned boolean,
                   partner_increment numeric, partner_minimum numeric, partner_maximum numeric, partner_cache numeric,
                   partner_cycle boolean, partner_last numeric)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH t AS (
        SELECT * FROM jsonb_to_recordset(target->'sequences')
            AS x(id integer, "column" text, oid bigint, name text, plain text, owned boolean, increment numeric,
                 minimum numeric, maximum numeric, cache numeric, cycle boolean, last numeric)
         WHERE x.oid IS NOT NULL)
    SELECT r.relation, format('%I.%I', r.target_schema, r.target_name), s."column", s.oid, s.name, s.owned, s.increment,
           s.start, s.minimum, s.maximum, s.cache, s.cycle, s.last, s.lowest, s.highest,
           p.oid, p.name, p.owned, p.increment, p.minimum, p.maximum, p.cache, p.cycle, p.last
      FROM jsonb_to_recordset(source->'sequences')
               AS s(id integer, "column" text, oid bigint, name text, plain text, owned boolean, increment numeric,
                    start numeric, minimum numeric, maximum numeric, cache numeric, cycle boolean, last numeric,
                    lowest numeric, highest numeric)
      JOIN migrate_tiers.relation r ON r.id = s.id AND r.tier = 'realtime' AND r.migration = m
      -- Where the target has no such table or column, other checks say so.
      JOIN jsonb_to_recordset(target->'columns') AS c(id integer, name text) ON c.id = s.id AND c.name = s."column"
      LEFT JOIN LATERAL (
        SELECT t.* FROM t
         WHERE t.id = s.id AND t."column" = s."column"
           AND (t.plain = s.plain OR NOT EXISTS (SELECT FROM t AS o WHERE o.id = t.id AND o."column" = t."column" AND o.oid <> t.oid))
         ORDER BY t.oid LIMIT 1) p ON true
     WHERE s.oid IS NOT NULL
$$;

CREATE FUNCTION migrate_tiers.preflight_sequences(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH pair AS MATERIALIZED (SELECT * FROM migrate_tiers.preflight_paired_sequences(m, source, target)),
    -- Values from here to each side's end, and of the whole: in steps of the increment.
    room AS (
        SELECT p.oid, p.name, p.cycle, min(w.whole) AS whole, least(min(w.here), min(w.there)) AS remaining,
               4 * greatest(max(p.cache), max(p.partner_cache)) AS least_of_all, bool_or(w.there < w.here) AS on_target
          FROM pair p
         CROSS JOIN LATERAL (SELECT sign(p.increment), greatest(p.minimum, p.lowest), least(p.maximum, p.highest),
                                    greatest(p.partner_minimum, p.lowest), least(p.partner_maximum, p.highest),
                                    coalesce(p.last, p.start - sign(p.increment))) AS b(turn, low, high, low_there, high_there, at)
         CROSS JOIN LATERAL (SELECT div(least(b.high - b.low, b.high_there - b.low_there), abs(p.increment)) + 1,
                                    div(CASE WHEN b.turn > 0 THEN b.high - b.at ELSE b.at - b.low END, abs(p.increment)),
                                    div(CASE WHEN b.turn > 0 THEN b.high_there - greatest(b.at, p.partner_last)
                                             ELSE least(b.at, p.partner_last) - b.low_there END, abs(p.increment)))
                    AS w(whole, here, there)
         WHERE b.turn = sign(p.partner_increment)
         GROUP BY p.oid, p.name, p.cycle)
    SELECT p.name, 'failure',
           format('role %I, which owns the migration, does not own this sequence behind column %I', source->'server'->>'user', p."column"),
           format('Run ALTER SEQUENCE %s OWNER TO %I.', p.name, source->'server'->>'user')
      FROM pair p WHERE NOT p.owned
    UNION ALL
    SELECT p.name, 'failure',
           format('the target has no sequence of its own behind column %I of table %s', p."column", p.target_table),
           'Give that column a sequence there, as it has one here: applications that write there need its numbers.'
      FROM pair p WHERE p.partner IS NULL
    UNION ALL
    SELECT p.name, 'failure',
           format('role %I on the target does not own sequence %s, its partner there', target->'server'->>'user', p.partner_name),
           format('Run ALTER SEQUENCE %s OWNER TO %I there.', p.partner_name, target->'server'->>'user')
      FROM pair p WHERE NOT p.partner_owned
    UNION ALL
    SELECT p.name, 'failure',
           format('sequence %s of the target is the partner of %s, too', p.partner_name, string_agg(DISTINCT o.name, ', ')),
           'Give each column of the target a sequence of its own, as here.'
      FROM pair p JOIN pair o ON o.partner = p.partner AND o.oid <> p.oid
     GROUP BY p.name, p.partner_name
    UNION ALL
    SELECT DISTINCT p.name, CASE WHEN sign(p.increment) <> sign(p.partner_increment) THEN 'failure' ELSE 'warning' END,
           format('it steps by %s%s, and sequence %s of the target by %s%s', p.increment, CASE WHEN p.cycle THEN ' and cycles' END,
                  p.partner_name, p.partner_increment, CASE WHEN p.partner_cycle THEN ' and cycles' END),
           'Give both the same settings, unless the target shall have others in the end.'
      FROM pair p WHERE p.increment <> p.partner_increment OR p.cycle <> p.partner_cycle
    UNION ALL
    SELECT w.name,
           CASE WHEN w.cycle OR w.remaining < w.least_of_all OR w.remaining < w.whole / 100 THEN 'failure' ELSE 'warning' END,
           format('%s of %s values are left%s, and while both sides are written each uses up two at a time',
                  greatest(w.remaining, 0), w.whole, CASE WHEN w.on_target THEN ' on the target' END),
           'Widen the column to bigint, or the sequence by MAXVALUE or MINVALUE, on both sides.'
      FROM room w
     WHERE (NOT w.cycle AND (w.remaining < w.whole / 10 OR w.remaining < w.least_of_all))
        OR (w.cycle AND w.whole < 2 * w.least_of_all)
    UNION ALL
    SELECT r.relation::regclass::text, 'warning',
           format('the default of column %I calls nextval, but of which sequence the catalogs do not tell', s."column"),
           'Write the sequence as a constant of type regclass, on both sides; else see to it that its numbers do not collide.'
      FROM jsonb_to_recordset(source->'sequences') AS s(id integer, "column" text, oid bigint)
      JOIN migrate_tiers.relation r ON r.id = s.id AND r.tier = 'realtime'
     WHERE s.oid IS NULL
    UNION ALL
    SELECT r.relation::regclass::text, 'warning',
           format('column %I draws numbers from sequence %s on the target, and from none here', t."column", t.name),
           'See to it that the numbers that applications draw there do not collide with those here.'
      FROM jsonb_to_recordset(target->'sequences') AS t(id integer, "column" text, oid bigint, name text)
      JOIN migrate_tiers.relation r ON r.id = t.id AND r.tier = 'realtime'
     WHERE t.oid IS NOT NULL
       AND NOT EXISTS (SELECT FROM jsonb_to_recordset(source->'sequences') AS s(id integer, "column" text)
                        WHERE s.id = t.id AND s."column" = t."column")
    ORDER BY 1, 3
$$;

REVOKE ALL ON FUNCTION migrate_tiers.preflight_paired_sequences(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_sequences(integer, jsonb, jsonb) FROM PUBLIC;
