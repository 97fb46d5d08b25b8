//! The two clocks of a relay: one that never jumps, for limits, and the calendar, for the store.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use underpass_proto::Time;
use underpass_store::UnixMillis;

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Time since the first call in this process; monotonic.
pub(crate) fn now() -> Time {
    let elapsed = origin().elapsed().as_micros();
    Time::from_micros(u64::try_from(elapsed).unwrap_or(u64::MAX))
}

/// The same point on tokio's clock.
pub(crate) fn instant(time: Time) -> tokio::time::Instant {
    (origin() + time.since(Time::ZERO)).into()
}

/// The calendar's time.
pub(crate) fn calendar() -> UnixMillis {
    SystemTime::now().into()
}
