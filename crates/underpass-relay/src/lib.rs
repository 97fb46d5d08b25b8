//! The Underpass relay.
