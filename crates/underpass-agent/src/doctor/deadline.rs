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

    #[tokio::test]
    async fn whatever_hangs_is_left() {
        let [short, whole] = [20, 60].map(Duration::from_millis);
        let deadline = Deadline::after(whole);
        let hangs = || std::future::pending::<Result<(), ()>>();
        let step = deadline.step(short, hangs()).await;
        assert!(matches!(step, Step::Late(limit) if limit <= short));
        // What may take longer than is left gets what is left.
        let step = deadline.step(Duration::from_secs(3600), hangs()).await;
        assert!(matches!(step, Step::NoTurn | Step::Late(_)), "{step:?}");
        assert_eq!(deadline.left(), Duration::ZERO);
        let step = deadline.step(whole, async { Ok::<_, ()>(1) }).await;
        assert!(matches!(step, Step::NoTurn), "{step:?}");
    }

    #[tokio::test]
    async fn what_ends_in_time_tells_how() {
        let deadline = Deadline::after(Duration::from_secs(3600));
        let well = deadline.step(deadline.left(), async { Ok::<_, ()>(1) });
        assert_eq!(well.await.done(), Some(&1));
        let badly = deadline.step(deadline.left(), async { Err::<(), _>(2) });
        assert_eq!(badly.await.failed(), Some(&2));
    }
}
