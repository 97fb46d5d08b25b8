-- Grows with every change of what somebody may do, whoever makes it: relays that share the file look at it to see
-- what another one has changed. Triggers, so that no statement can forget it.
CREATE TABLE rights (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO rights (one, revision) VALUES (1, 0);

CREATE TRIGGER rights_users AFTER UPDATE OF role, state ON users
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_machines AFTER UPDATE OF state, expires_at ON machines
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_services AFTER UPDATE OF machine_id, plain_http ON services
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_services_gone AFTER DELETE ON services
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_access AFTER INSERT ON access
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_access_changed AFTER UPDATE ON access
BEGIN UPDATE rights SET revision = revision + 1; END;

CREATE TRIGGER rights_access_gone AFTER DELETE ON access
BEGIN UPDATE rights SET revision = revision + 1; END;
