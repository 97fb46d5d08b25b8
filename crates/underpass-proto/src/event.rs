//! What a relay writes down: one table of the kinds of events.
//!
//! The word of a kind stands in the store, in answers and in scripts, its number where words are too
//! long; neither ever changes its meaning. `docs/events.md` and the help of the command line are made
//! from the table.

use std::fmt;

macro_rules! kinds {
    ($(
        $number:literal $name:ident $word:literal, repeats $repeats:literal: $what:literal, $details:literal;
    )*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum EventKind {
            $( #[doc = $what] $name = $number, )*
        }

        impl EventKind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &[EventKind] = &[$( EventKind::$name ),*];

            /// The stable word.
            pub fn word(self) -> &'static str {
                match self {
                    $( EventKind::$name => $word, )*
                }
            }

            /// What happened, as a clause.
            pub fn what(self) -> &'static str {
                match self {
                    $( EventKind::$name => $what, )*
                }
            }

            /// The names of what the details of such an event may hold, separated by commas.
            pub fn details(self) -> &'static str {
                match self {
                    $( EventKind::$name => $details, )*
                }
            }

            /// Whether somebody outside can bring such events about as fast as they like, so that the same
            /// one again within a short time is counted instead of written.
            pub fn repeats(self) -> bool {
                match self {
                    $( EventKind::$name => $repeats, )*
                }
            }
        }
    };
}

kinds! {
    0x01 Start "start", repeats false:
        "the relay began to serve", "version, unclean";
    0x02 Stop "stop", repeats false:
        "the relay stopped in order", "";
    0x03 Lost "lost", repeats false:
        "events could not be written: so many, from then to then", "events, from, to";
    0x04 Login "login", repeats false:
        "a machine logged in by setup code, invitation, password or certificate, and is enrolled", "by, machine";
    0x05 LoginRefused "login-refused", repeats true:
        "a login by setup code, invitation, password, certificate or token failed; the peer is the user it was for, if known", "by, code, times";
    0x06 Register "register", repeats false:
        "a new user has registered, and waits for approval", "machine";
    0x07 Approve "approve", repeats false:
        "a user who waited was let in", "";
    0x08 Deny "deny", repeats false:
        "a user who waited was not let in, and is forgotten", "";
    0x09 Disable "disable", repeats false:
        "a user was shut out", "";
    0x0a Enable "enable", repeats false:
        "a user was let in again", "";
    0x0b Role "role", repeats false:
        "a user got another role", "role";
    0x0c Password "password", repeats false:
        "a user's password was set", "";
    0x0d Invite "invite", repeats false:
        "somebody was invited", "";
    0x0e Revoke "revoke", repeats false:
        "a machine was shut out for good", "machine";
    0x0f Token "token", repeats false:
        "a token for a program without an agent was made", "token";
    0x10 Attach "attach", repeats false:
        "an enrolled machine attached", "machine";
    0x11 Detach "detach", repeats false:
        "an enrolled machine's attachment ended", "machine, code, seconds";
    0x12 Return "return", repeats false:
        "an attached machine that had no path any more has one again", "machine";
    0x13 Publish "publish", repeats false:
        "a service was published", "machine, service";
    0x14 Withdraw "withdraw", repeats false:
        "a service was withdrawn", "service";
    0x15 Access "access", repeats false:
        "an entry of a service's access list was set", "service, access";
    0x16 Connect "connect", repeats false:
        "a user was connected to a service; the peer is its owner", "machine, service, session";
    0x17 Resume "resume", repeats false:
        "a session that was here before got a path again, or one more path", "machine, service, session, beside";
    0x18 Failover "failover", repeats false:
        "a session from elsewhere got a path here: from another relay, or from before this one's start",
        "machine, service, session";
    0x19 Disconnect "disconnect", repeats false:
        "a path between a user and a service ended",
        "machine, service, session, code, by, sent, received, seconds";
    0x1a Refuse "refuse", repeats true:
        "a user was not connected to a service", "machine, service, session, code, times";
    0x1b RequestRefused "request-refused", repeats true:
        "somebody asked the relay for what they may not do", "request, code, times";
    0x1c Limit "limit", repeats true:
        "a limit was hit", "by, request, service, machine, session, code, limit, times";
    0x1d ServiceApprove "service-approve", repeats false:
        "a manager has approved a service", "service";
    0x1e ServiceRefuse "service-refuse", repeats false:
        "a manager has refused a service", "service";
    0x1f Publishing "publishing", repeats false:
        "it was said whether what a user publishes waits for approval", "publishing";
    0x28 Kick "kick", repeats false:
        "somebody ended a session for good; the peer is the other user of it", "service, session, reason";
    0x29 LimitSet "limit-set", repeats false:
        "an exception from a limit was made for a user, or taken back", "limit, value";
    0x2a LimitNear "limit-near", repeats false:
        "a user has used nine tenths of the bytes of a month", "limit, used, value";
}

impl EventKind {
    /// The number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this word; `None` where a newer relay knows more than we do.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::specification::compare;

    const BEGIN: &str = "<!-- made from crates/underpass-proto/src/event.rs -->\n";
    const END: &str = "<!-- end of kinds -->";

    fn table() -> String {
        let mut text =
            String::from("| kind | number | what happened | details |\n|---|---|---|---|\n");
        for kind in EventKind::ALL {
            let details: Vec<_> = kind
                .details()
                .split(", ")
                .filter(|it| !it.is_empty())
                .map(|it| format!("`{it}`"))
                .collect();
            let (number, what) = (kind.number(), kind.what());
            text += &format!(
                "| `{kind}` | {number:#04x} | {what} | {} |\n",
                details.join(" ")
            );
        }
        text
    }

    #[test]
    fn the_page_of_events_is_the_table() {
        compare("docs/events.md", |found| {
            let (before, rest) = found.split_once(BEGIN).expect("the page has the mark");
            let (_, after) = rest.split_once(END).expect("the page has the end mark");
            format!("{before}{BEGIN}{}{END}{after}", table())
        });
    }

    #[test]
    fn words_and_numbers_are_unique_and_found_again() {
        let words: HashSet<_> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), EventKind::ALL.len());
        let numbers: Vec<u8> = EventKind::ALL.iter().map(|kind| kind.number()).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_word(kind.word()), Some(*kind));
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(
                kind.word().chars().all(plain) && kind.word().len() <= 32,
                "{kind}"
            );
            assert!(
                !kind.what().is_empty() && !kind.what().ends_with('.'),
                "{kind}"
            );
            let told = kind.details().split(", ").any(|it| it == "times");
            assert_eq!(kind.repeats(), told, "{kind}: what is counted is told");
        }
        assert_eq!(EventKind::from_word("none"), None);
    }
}
