//! How much the hub keeps, and for how long.

use std::time::Duration;

use underpass_proto::Grade;

/// The hub's limits. Each count is the most that is allowed; 0 allows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attachments altogether.
    pub attachments: usize,
    /// Attachments from one source.
    pub attachments_per_source: usize,
    /// Attachments of one user.
    pub attachments_per_user: usize,
    /// Sessions that one user has begun.
    pub sessions_per_user: usize,
    /// Attachments of machines that are not enrolled.
    pub strangers: usize,
    /// The same from one source.
    pub strangers_per_source: usize,
    /// How long a machine may stay attached without being enrolled.
    pub enrol_within: Duration,
    /// Services that one attachment publishes.
    pub services_per_attachment: usize,
    /// Routes altogether.
    pub routes: usize,
    /// Routes that end at one attachment.
    pub routes_per_attachment: usize,
    /// Routes that wait for their publisher, altogether.
    pub waiting: usize,
    /// Routes of one attachment that wait for a check or a publisher.
    pub waiting_per_attachment: usize,
    /// How long a route waits for its publisher.
    pub wait_for_publisher: Duration,
    /// How long a publisher may take to send the first packet on a new route.
    pub answer_within: Duration,
    /// The least secrecy that a session between two agents may have.
    pub lowest_grade: Grade,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attachments: 10_000,
            attachments_per_source: 1_000,
            attachments_per_user: 256,
            sessions_per_user: 4_096,
            strangers: 256,
            strangers_per_source: 16,
            enrol_within: Duration::from_secs(60),
            services_per_attachment: 256,
            routes: 50_000,
            routes_per_attachment: 4_096,
            waiting: 1_024,
            waiting_per_attachment: 64,
            wait_for_publisher: Duration::from_secs(20),
            answer_within: Duration::from_secs(30),
            lowest_grade: Grade::Blind,
        }
    }
}
