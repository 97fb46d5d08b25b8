//! The process's clock as the pure core wants it.

use std::sync::OnceLock;
use std::time::Instant;

use underpass_proto::Time;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

fn origin() -> Instant {
    *ORIGIN.get_or_init(Instant::now)
}

/// The time since the first call in this process; monotonic.
pub(crate) fn now() -> Time {
    let elapsed = origin().elapsed().as_micros();
    Time::from_micros(u64::try_from(elapsed).unwrap_or(u64::MAX))
}

/// The same point on tokio's clock.
pub(crate) fn instant(time: Time) -> tokio::time::Instant {
    (origin() + time.since(Time::ZERO)).into()
}
