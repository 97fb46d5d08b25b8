-- Tokens of bare HTTP clients are machines whose key the token is; kinds are checked by the program.
ALTER TABLE machines ADD COLUMN kind TEXT NOT NULL DEFAULT 'agent';
ALTER TABLE machines ADD COLUMN expires_at INTEGER;

-- Closed by default: the relay reads what bare HTTP clients exchange with a service.
ALTER TABLE services ADD COLUMN plain_http INTEGER NOT NULL DEFAULT 0 CHECK (plain_http IN (0, 1));
