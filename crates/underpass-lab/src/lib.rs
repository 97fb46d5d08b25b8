//! Networks, firewalls and faults for end-to-end tests of the Underpass binaries.
