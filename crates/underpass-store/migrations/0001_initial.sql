-- Roles and states are checked by the program and not here: SQLite cannot change a CHECK without
-- building the table anew.

CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE machines (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    name TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id),
    state TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    last_seen_at INTEGER
) STRICT;

CREATE UNIQUE INDEX machines_active_name ON machines (user_id, name) WHERE state = 'active';

-- One row at most. It stays when used, so that the machine that used it can ask again.
CREATE TABLE setup_code (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    made_at INTEGER NOT NULL,
    used_by INTEGER REFERENCES machines (id),
    used_at INTEGER
) STRICT;

CREATE TABLE invitations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    user_name TEXT NOT NULL,
    made_by INTEGER NOT NULL REFERENCES users (id),
    made_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_by INTEGER REFERENCES machines (id),
    used_at INTEGER
) STRICT;

CREATE INDEX invitations_expires_at ON invitations (expires_at);

CREATE TABLE services (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    owner_id INTEGER NOT NULL REFERENCES users (id),
    machine_id INTEGER NOT NULL REFERENCES machines (id),
    service_key BLOB NOT NULL UNIQUE CHECK (length(service_key) BETWEEN 16 AND 32),
    compression INTEGER NOT NULL CHECK (compression IN (0, 1)),
    created_at INTEGER NOT NULL,
    UNIQUE (name, owner_id)
) STRICT;

CREATE INDEX services_owner ON services (owner_id);

-- user_id NULL stands for everyone.
CREATE TABLE access (
    service_id INTEGER NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    user_id INTEGER REFERENCES users (id),
    allowed INTEGER NOT NULL CHECK (allowed IN (0, 1)),
    since INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX access_user ON access (service_id, user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX access_everyone ON access (service_id) WHERE user_id IS NULL;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT,
    peer TEXT,
    address TEXT,
    details TEXT NOT NULL CHECK (json_valid(details))
) STRICT;

CREATE INDEX events_at ON events (at);
CREATE INDEX events_kind ON events (kind, id);
CREATE INDEX events_actor ON events (actor, id);
CREATE INDEX events_peer ON events (peer, id);
