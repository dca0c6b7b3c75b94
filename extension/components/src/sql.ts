/** SQL cut into words for colouring. PostgreSQL's own lexer is the measure; it need not be valid SQL. */

export interface Token {
  kind: "plain" | "comment" | "string" | "identifier" | "parameter" | "number" | "keyword";
  text: string;
}

const KEYWORDS = new Set(
  ("ABORT ADD ALL ALTER ANALYZE AND ANY ARRAY AS ASC BEGIN BETWEEN BY CALL CASCADE CASE CAST CHECK " +
    "CLOSE COLUMN COMMIT CONFLICT CONSTRAINT COPY CREATE CROSS CURRENT CURSOR DATABASE DEALLOCATE " +
    "DECLARE DEFAULT DELETE DESC DISCARD DISTINCT DO DROP ELSE END EXCEPT EXECUTE EXISTS EXPLAIN " +
    "EXTENSION FALSE FETCH FILTER FIRST FOR FOREIGN FROM FULL FUNCTION GRANT GROUP HAVING IF ILIKE " +
    "IN INDEX INNER INSERT INTERSECT INTO IS ISOLATION JOIN KEY LAST LATERAL LEFT LEVEL LIKE LIMIT " +
    "LISTEN LOCK MATERIALIZED MERGE NATURAL NEXT NOT NOTHING NOTIFY NULL NULLS OF OFFSET ON ONLY OR " +
    "ORDER OUTER OVER PARTITION PREPARE PRIMARY PROCEDURE PROGRAM READ RECURSIVE REFERENCES RELEASE " +
    "RESET RETURNING REVOKE RIGHT ROLE ROLLBACK ROW ROWS SAVEPOINT SCHEMA SECURITY SELECT SEQUENCE " +
    "SET SHOW SOME START STDIN STDOUT TABLE TEMP TEMPORARY THEN TO TRANSACTION TRIGGER TRUE TRUNCATE " +
    "UNION UNIQUE UNLISTEN UPDATE USER USING VACUUM VALUES VIEW WHEN WHERE WINDOW WITH WORK WRITE"
  ).split(" "),
);

const TOKEN = new RegExp(
  [
    "(?<comment>--[^\\r\\n]*)",
    "(?<block>\\/\\*)",
    "(?<string>[eE]'(?:[^'\\\\]|\\\\[\\s\\S]|'')*'?|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'?)",
    "(?<dollar>\\$(?<tag>[A-Za-z_\\u0080-\\uffff][\\w\\u0080-\\uffff]*)?\\$)",
    "(?<quoted>\"(?:[^\"]|\"\")*\"?)",
    "(?<parameter>\\$\\d+)",
    "(?<number>(?:\\d[\\d_]*(?:\\.[\\d_]*)?|\\.\\d[\\d_]*)(?:[eE][+-]?\\d+)?)",
    "(?<word>[A-Za-z_\\u0080-\\uffff][\\w$\\u0080-\\uffff]*)",
  ].join("|"),
  "y",
);

/** Split SQL into tokens; joined, their texts are the input. Never fails. */
export function tokens(sql: string): Token[] {
  const found: Token[] = [];
  const push = (kind: Token["kind"], text: string): void => {
    const last = found[found.length - 1];
    if (last && last.kind === "plain" && kind === "plain") last.text += text;
    else if (text) found.push({ kind, text });
  };
  let at = 0;
  while (at < sql.length) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(sql);
    if (!match) {
      push("plain", sql[at] ?? "");
      at += 1;
      continue;
    }
    const is = match.groups ?? {};
    let end = at + match[0].length;
    let kind: Token["kind"] = "plain";
    if (is.comment !== undefined) kind = "comment";
    else if (is.block !== undefined) {
      kind = "comment";
      end = endOfComment(sql, at);
    } else if (is.string !== undefined) kind = "string";
    else if (is.dollar !== undefined) {
      kind = "string";
      const close = sql.indexOf(match[0], end);
      end = close < 0 ? sql.length : close + match[0].length;
    } else if (is.quoted !== undefined) kind = "identifier";
    else if (is.parameter !== undefined) kind = "parameter";
    else if (is.number !== undefined) kind = "number";
    else if (KEYWORDS.has(match[0].toUpperCase())) kind = "keyword";
    push(kind, sql.slice(at, end));
    at = end;
  }
  return found;
}

// PostgreSQL nests block comments; a highlighter that does not would colour code as comment.
function endOfComment(sql: string, start: number): number {
  let depth = 0;
  for (let at = start; at < sql.length - 1; at += 1) {
    const pair = sql.slice(at, at + 2);
    if (pair === "/*") {
      depth += 1;
      at += 1;
    } else if (pair === "*/") {
      depth -= 1;
      at += 1;
      if (depth === 0) return at + 1;
    }
  }
  return sql.length;
}
