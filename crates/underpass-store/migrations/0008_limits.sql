-- Sessions that somebody has ended for good: no relay on this store opens a path for one. The time is the calendar's,
-- long after the last ticket of the session has expired.
CREATE TABLE ended_sessions (
    session BLOB NOT NULL PRIMARY KEY CHECK (length(session) = 16),
    reason TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;

CREATE INDEX ended_sessions_until ON ended_sessions (until);

-- What users have used, by day (since 1970, UTC) and service (NAME.OWNER, as it was called then).
CREATE TABLE usage (
    day INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    service TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY (day, user_id, service)
) STRICT;

-- Exceptions from limits; the value is NULL for no limit. Words are checked by the program.
CREATE TABLE user_limits (
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    value INTEGER,
    PRIMARY KEY (user_id, kind)
) STRICT;

-- Other relays are to see at once what changes here.
CREATE TRIGGER rights_ended_sessions AFTER INSERT ON ended_sessions
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_limits AFTER INSERT ON user_limits
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_limits_changed AFTER UPDATE ON user_limits
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_limits_gone AFTER DELETE ON user_limits
BEGIN UPDATE rights SET revision = revision + 1; END;
