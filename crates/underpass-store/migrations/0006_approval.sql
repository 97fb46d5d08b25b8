-- Services may wait for a manager's approval; with exceptions for users. Words are checked by the program.
ALTER TABLE services ADD COLUMN state TEXT NOT NULL DEFAULT 'active';
ALTER TABLE users ADD COLUMN publishing TEXT NOT NULL DEFAULT 'usual';

DROP TRIGGER rights_services;
CREATE TRIGGER rights_services AFTER UPDATE OF machine_id, plain_http, state ON services
BEGIN UPDATE rights SET revision = revision + 1; END;

-- An entry of an access list is about a user, a machine, a role, or everyone (all three NULL).
ALTER TABLE access ADD COLUMN machine_id INTEGER REFERENCES machines (id) ON DELETE CASCADE;
ALTER TABLE access ADD COLUMN role TEXT;

DROP INDEX access_everyone;
CREATE UNIQUE INDEX access_everyone ON access (service_id)
WHERE user_id IS NULL AND machine_id IS NULL AND role IS NULL;
CREATE UNIQUE INDEX access_machine ON access (service_id, machine_id) WHERE machine_id IS NOT NULL;
CREATE UNIQUE INDEX access_role ON access (service_id, role) WHERE role IS NOT NULL;
