//! Users, machines, services and access lists of an Underpass relay.
