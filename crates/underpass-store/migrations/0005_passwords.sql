-- Logins by password (OPAQUE, RFC 9807). A file lets nobody in; whoever has it and the secret of the server can try
-- passwords against it, one stretching each.
CREATE TABLE passwords (
    user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    file BLOB NOT NULL CHECK (length(file) = 192),
    set_at INTEGER NOT NULL
) STRICT;

-- One row at most: all relays on this database answer for the same passwords.
CREATE TABLE password_server (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    secret BLOB NOT NULL CHECK (length(secret) = 128)
) STRICT;

CREATE INDEX users_state ON users (state);
CREATE INDEX machines_user ON machines (user_id);

-- Who is denied is forgotten, and somebody may have counted on them: users are deleted in no other case.
CREATE TRIGGER rights_users_gone AFTER DELETE ON users
BEGIN UPDATE rights SET revision = revision + 1; END;
