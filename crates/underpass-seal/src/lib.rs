//! Handshake, key schedule, sealing and opening of Underpass records.
