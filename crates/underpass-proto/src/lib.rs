//! The Underpass session protocol as a pure state machine.
