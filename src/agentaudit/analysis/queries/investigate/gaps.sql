-- question: When was nothing recorded, and of which sessions is not everything there that passed?
-- parameters: log (what the logs tell: rows of the module interruptions)
-- columns: since, until, gateway, what (`stopped`, `crashed`, `silent`, `unfinished`, `torn`, `recovered`,
--   `incident`, `purged`, `unread`, `contradiction`, `scripted_clock` of a log or journal; `session_cut`,
--   `incomplete`, `payload_cut`, `payloads_purged`, `masked` of a session), session_id, commands (null
--   where it is not about commands), amount (of sessions, bytes or spans, as detail says), detail
WITH seen AS (
    SELECT * FROM sessions WHERE protocol <> 'agentaudit'
),
told AS (
    SELECT unnest($log::STRUCT(since TIMESTAMPTZ, until TIMESTAMPTZ, gateway VARCHAR, what VARCHAR,
        amount BIGINT, detail VARCHAR)[], recursive := TRUE)
),
gaps AS (
    SELECT since, until, gateway, what, NULL::UUID AS session_id, NULL::BIGINT AS commands, amount, detail
    FROM told
    UNION ALL
    SELECT opened_at, closed_at, gateway, 'session_cut', session_id,
        commands, NULL,
        CASE close_reason WHEN 'gateway_crash' THEN 'the gateway crashed: what passed after that, and how it ended, is not known'
            ELSE 'a message could not be masked, did not pass and was not recorded' END
    FROM seen
    WHERE close_reason IN ('gateway_crash', 'masking_failed')
    UNION ALL
    SELECT min(c.started_at), max(s.closed_at), any_value(s.gateway), 'incomplete', c.session_id, count(*), NULL,
        'commands whose end was never seen'
    FROM commands AS c
    JOIN seen AS s ON s.session_id = c.session_id
    WHERE c.status = 'incomplete' AND s.closed_at IS NOT NULL
    GROUP BY c.session_id
    UNION ALL
    SELECT min(observed_at), max(observed_at), any_value(gateway), 'payload_cut', session_id,
        count(DISTINCT command_no), sum(orig_len - stored_len)::BIGINT,
        'bytes of answers beyond payload_limit; their SHA-256 was recorded'
    FROM events
    WHERE flags & 8 <> 0 AND kind = 'response'
    GROUP BY session_id
    UNION ALL
    SELECT any_value(s.opened_at), any_value(s.closed_at), any_value(s.gateway), 'payloads_purged', s.session_id,
        any_value(s.commands), NULL, 'what was answered is gone under retention; statements stay'
    FROM seen AS s
    JOIN every_sessions AS e ON e.session_id = s.session_id AND e.key_p IS NULL
    GROUP BY s.session_id
    UNION ALL
    SELECT opened_at, closed_at, gateway, 'masked', session_id, NULL, masked,
        'places where a rule hid something before it was recorded'
    FROM seen
    WHERE masked > 0
)
FROM gaps
ORDER BY since NULLS FIRST, gateway, what, session_id
