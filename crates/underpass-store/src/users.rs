//! Users: who they are and what they may do.

use std::fmt;
use std::str::FromStr;

use crate::{Fault, Name, UnixMillis};

/// Number of a user, never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub i64);

/// What a user may do; a later one may all that an earlier one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Publishes and uses services.
    User,
    /// Also invites users and ends connections.
    Manager,
    /// Also makes managers and administrators.
    Administrator,
}

/// Whether a user is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserState {
    /// Let in.
    Active,
    /// Refused everywhere; machines, services and access lists are kept.
    Disabled,
    /// Not let in yet: has registered, and waits for a manager.
    Waiting,
}

/// A user of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Number of the user.
    pub id: UserId,
    /// Name, unique in the relay, never changed.
    pub name: Name,
    /// What the user may do.
    pub role: Role,
    /// Whether the user is let in.
    pub state: UserState,
    /// When the user was created.
    pub created: UnixMillis,
}

/// Why a change of a user was refused.
#[derive(Debug, thiserror::Error)]
pub enum UserChangeError {
    /// There is no user of that number.
    #[error("no such user")]
    NoSuchUser,
    /// The user waits for approval.
    #[error("this user waits for approval; approve or deny that first")]
    Waits,
    /// The change would leave the relay without an active administrator.
    #[error("this is the last administrator; make another user administrator first")]
    LastAdministrator,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A text that is none of the words expected in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not one of: {expected}")]
pub struct UnknownWord {
    /// The text found.
    pub word: String,
    /// The words that would have been right.
    pub expected: &'static str,
}

/// Ties the values of an enum to the words that stand for them in the database and on the
/// command line, in one place.
macro_rules! words {
    ($type:ty { $($value:path => $word:literal),+ $(,)? } $expected:literal) => {
        impl $type {
            /// The word for this value, stable, as stored and as typed.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($value => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = $crate::UnknownWord;
            fn from_str(word: &str) -> Result<Self, $crate::UnknownWord> {
                match word {
                    $($word => Ok($value),)+
                    _ => Err($crate::UnknownWord { word: word.to_owned(), expected: $expected }),
                }
            }
        }
    };
}
pub(crate) use words;

words!(Role {
    Role::User => "user",
    Role::Manager => "manager",
    Role::Administrator => "administrator",
} "user, manager, administrator");

words!(UserState {
    UserState::Active => "active",
    UserState::Disabled => "disabled",
    UserState::Waiting => "waiting",
} "active, disabled, waiting");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_others_are_refused() {
        for role in [Role::User, Role::Manager, Role::Administrator] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for state in [UserState::Active, UserState::Disabled, UserState::Waiting] {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        let refused = "root".parse::<Role>().unwrap_err();
        assert!(refused.to_string().contains("user, manager, administrator"));
    }

    #[test]
    fn roles_are_ordered_by_what_they_may() {
        assert!(Role::Administrator > Role::Manager && Role::Manager > Role::User);
    }
}
