-- question: What became of each command: was the transaction that it ran in kept?
-- parameters: none
-- columns: session_id, command_no, fate (`committed`, `rolled back`, `not committed`: the session
--   ended inside the transaction, `open`: it has not ended yet), null where no transaction is known
-- A transaction ends with the command after which the server reports idle (`I`), or with the last one
-- before another begins, in a chain or in the middle of a query, behind which nothing is reported. It
-- was rolled back if that command was a ROLLBACK, failed, or came when the transaction had failed
-- already: then COMMIT rolls back too. Source: postgresql.org, "ReadyForQuery" and "ROLLBACK".
WITH told AS (
    SELECT
        session_id, command_no, txn_no, txn_status, operation, status,
        -- In a failed transaction nothing succeeds but what ends it, or goes back behind the failure.
        lag(coalesce(txn_status, CASE WHEN status = 'ok' THEN 'T' END) IGNORE NULLS) OVER (
            PARTITION BY session_id, txn_no ORDER BY command_no
        ) AS before,
        txn_status IS NOT DISTINCT FROM 'I'
        OR txn_no < max(txn_no) OVER (PARTITION BY session_id) AS is_over
    FROM commands
    WHERE txn_no IS NOT NULL
),
ended AS (
    SELECT
        session_id,
        txn_no,
        bool_or(is_over) AS is_over,
        arg_max(
            operation IN ('ROLLBACK', 'ABORT') OR status <> 'ok' OR before IS NOT DISTINCT FROM 'E',
            command_no
        ) AS is_undone
    FROM told
    GROUP BY session_id, txn_no
)
SELECT
    t.session_id,
    t.command_no,
    CASE
        WHEN e.is_over AND e.is_undone THEN 'rolled back'
        WHEN e.is_over THEN 'committed'
        WHEN s.closed_at IS NOT NULL THEN 'not committed'
        ELSE 'open'
    END AS fate
FROM told AS t
JOIN ended AS e ON e.session_id = t.session_id AND e.txn_no = t.txn_no
LEFT JOIN sessions AS s ON s.session_id = t.session_id
