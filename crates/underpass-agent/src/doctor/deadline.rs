//! Everything ends in time, because everything is done under a deadline.

use std::time::Duration;

use tokio::time::Instant;

/// When all is over, whatever it is at.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end: Instant,
}

/// What became of something that was tried.
#[derive(Debug, Clone)]
pub enum Step<T, E> {
    /// It went well.
    Done(T),
    /// It did not.
    Failed(E),
    /// It was still under way after this time.
    Late(Duration),
    /// The deadline came before its turn.
    NoTurn,
    /// There was no point in it, and why.
    Skipped(&'static str),
}

impl<T, E> Step<T, E> {
    /// What came of it, where it went well.
    pub fn done(&self) -> Option<&T> {
        match self {
            Step::Done(value) => Some(value),
            _ => None,
        }
    }

    /// Why it did not go well, where there was an answer.
    pub fn failed(&self) -> Option<&E> {
        match self {
            Step::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl Deadline {
    /// From now on.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self {
            end: Instant::now() + limit,
        }
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits for `work`, for `most` and no longer than this deadline.
    pub async fn step<T, E>(
        &self,
        most: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Step<T, E> {
        let limit = most.min(self.left());
        if limit.is_zero() {
            return Step::NoTurn;
        }
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(value)) => Step::Done(value),
            Ok(Err(error)) => Step::Failed(error),
            Err(_) => Step::Late(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whatever_hangs_is_left() {
        let deadline = Deadline::after(Duration::from_secs(10));
        let hangs = || std::future::pending::<Result<(), ()>>();
        let step = deadline.step(Duration::from_secs(4), hangs()).await;
        assert!(matches!(step, Step::Late(limit) if limit == Duration::from_secs(4)));
        let step = deadline.step(Duration::from_secs(60), hangs()).await;
        assert!(matches!(step, Step::Late(limit) if limit == Duration::from_secs(6)));
        assert_eq!(deadline.left(), Duration::ZERO);
        let step = deadline.step(Duration::from_secs(1), async { Ok::<_, ()>(1) });
        assert!(matches!(step.await, Step::NoTurn));
    }
}
