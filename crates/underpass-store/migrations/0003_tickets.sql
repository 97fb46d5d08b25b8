-- First tickets of sessions: digests only. Times are microseconds of the ticket authority's own clock,
-- which runs while one runs: no jump of a calendar can expire a ticket.
CREATE TABLE tickets (
    handle BLOB NOT NULL PRIMARY KEY CHECK (length(handle) = 16),
    current BLOB NOT NULL UNIQUE CHECK (length(current) = 32),
    next BLOB NOT NULL UNIQUE CHECK (length(next) = 32),
    salt BLOB NOT NULL CHECK (length(salt) = 32),
    claim BLOB NOT NULL CHECK (length(claim) = 32),
    far BLOB NOT NULL CHECK (length(far) <= 64),
    keep INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE INDEX tickets_expires ON tickets (expires);

CREATE TABLE ticket_clock (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    at INTEGER NOT NULL
) STRICT;

INSERT INTO ticket_clock (one, at) VALUES (1, 0);
