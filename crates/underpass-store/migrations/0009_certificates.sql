-- Machines that are let in by an X.509 certificate: it and what comes with it in DER, one after the other, as they are
-- checked again at each attach. Until when they hold stands in machines.expires_at.
CREATE TABLE certificates (
    machine_id INTEGER PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
    chain BLOB NOT NULL CHECK (length(chain) <= 65536),
    set_at INTEGER NOT NULL
) STRICT;
