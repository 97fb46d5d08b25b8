//! Carry any TCP or UDP service past firewalls that only let web traffic out.
