//! The Underpass agent: publish and connect.
