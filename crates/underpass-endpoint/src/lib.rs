//! Drives Underpass sessions over legs.
