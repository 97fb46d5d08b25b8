//! Control messages: what an agent and its relay say to each other.
//!
//! They stand on a stream channel that the agent opens to [`CONTROL_SERVICE`] in its session
//! with the relay, one after the other: `length: varint | type: varint | fields`, the length
//! at most [`MAX_CONTROL`]. Every request carries a number of the agent's choice; exactly one
//! answer carries it back: what was asked for, `Done`, or `Failed`. Lists come in as many
//! messages as they need. Answers may come in another order than the requests.

mod answers;
mod attach;
mod certificates;
mod connections;
mod decoder;
mod events;
mod group;
mod limits;
mod meetings;
mod passwords;
mod services;
mod usage;
mod users;

pub use answers::{Done, Ended, Failed, Going, Notice};
pub use attach::{Attach, CodeKind, Enrol, Identity, WhoAmI};
pub use certificates::Certify;
pub use connections::{
    ConnectionClient, ConnectionKind, ConnectionRow, ConnectionRows, ConnectionWay, Connections,
    Kick,
};
pub use decoder::{ControlDecoder, ControlTooLong, MAX_CONTROL};
pub use events::{EventRow, EventRows, Events, MAX_EVENTS};
pub use group::{Group, GroupChanged, GroupList, GroupRelay, MAX_GROUP, MAX_RELAY_URL};
pub use limits::{LimitRow, LimitRows, LimitRule, Limits, SetLimit};
pub use meetings::{Meet, MeetingsChanged, Met, Part};
pub use passwords::{Challenge, Evaluated, Prove, Register, SetPassword, SignIn};
pub use services::{
    Allow, DecideService, Deny, FarEnd, MAX_ALLOWED, MayUse, Publish, Published, Resolve, Resolved,
    RightsChanged, ServiceDecision, ServiceRow, ServiceRows, ServiceState, Services, Withdraw,
};
pub use usage::{Usage, UsageBy, UsageRow, UsageRows};
pub use users::{
    ChangeUser, Invite, Invited, MachineRow, MachineRows, Machines, MakeToken, Publishing, Revoke,
    SetPublishing, SetRole, Standing, UserChange, UserRole, UserRow, UserRows, Users,
};

use crate::Speaker;
use crate::wire::{Fields, messages};

/// What the agent opens its control channel to; no service can have this name.
pub const CONTROL_SERVICE: &str = "@control";

messages! {
    /// Any control message.
    pub enum Control;
    /// The type of a control message.
    pub enum ControlType, unknown = UnknownControl;
    place = Speaker, family = "control";

    /// The first request.
    0x01 Attach in [Agent];
    /// Enrols this machine.
    0x02 Enrol in [Agent];
    /// Whom does the relay take us for?
    0x03 WhoAmI in [Agent];
    /// Invites a machine to enrol.
    0x04 Invite in [Agent];
    /// Publishes a service.
    0x05 Publish in [Agent];
    /// Ends a publication.
    0x06 Withdraw in [Agent];
    /// Allows a user to use a service.
    0x07 Allow in [Agent];
    /// Takes that back.
    0x08 Deny in [Agent];
    /// Lists services.
    0x09 Services in [Agent];
    /// Where is a service?
    0x0a Resolve in [Agent];
    /// Lists users.
    0x0b Users in [Agent];
    /// Lists machines.
    0x0c Machines in [Agent];
    /// Shuts a machine out.
    0x0d Revoke in [Agent];
    /// Makes a token for a bare HTTP client.
    0x0e MakeToken in [Agent];
    /// Begins to log in by password.
    0x0f SignIn in [Agent];
    /// Proves the password.
    0x10 Prove in [Agent];
    /// Begins to register a password.
    0x11 Register in [Agent];
    /// Hands the password file in.
    0x12 SetPassword in [Agent];
    /// Approves, denies, disables or enables a user.
    0x13 ChangeUser in [Agent];
    /// Gives a user another role.
    0x14 SetRole in [Agent];
    /// Which relays does the group have?
    0x15 Group in [Agent];
    /// Asks for events.
    0x16 Events in [Agent];
    /// May a machine use a service?
    0x17 MayUse in [Agent];
    /// Approves or refuses a service.
    0x18 DecideService in [Agent];
    /// Whether what a user publishes waits for approval.
    0x19 SetPublishing in [Agent];
    /// Wishes to meet somebody.
    0x1a Meet in [Agent];
    /// Takes such a wish back.
    0x1b Part in [Agent];
    /// Which sessions live?
    0x1d Connections in [Agent];
    /// Ends a session for good.
    0x1e Kick in [Agent];
    /// How much was used?
    0x1f Usage in [Agent];

    /// Carried out.
    0x20 Done in [Relay];
    /// Not carried out.
    0x21 Failed in [Relay];
    /// Whom the relay takes the agent for.
    0x22 Identity in [Relay];
    /// An invitation.
    0x23 Invited in [Relay];
    /// The service is published.
    0x24 Published in [Relay];
    /// Services.
    0x25 ServiceRows in [Relay];
    /// Where a service is.
    0x26 Resolved in [Relay];
    /// Users.
    0x27 UserRows in [Relay];
    /// Machines.
    0x28 MachineRows in [Relay];
    /// The relay's part of a login by password.
    0x29 Challenge in [Relay];
    /// The relay's part of a registration.
    0x2a Evaluated in [Relay];
    /// The relays of the group.
    0x2b GroupList in [Relay];
    /// Events.
    0x2c EventRows in [Relay];
    /// Who is there to be met.
    0x2d Met in [Relay];
    /// Sessions that live.
    0x2f ConnectionRows in [Relay];

    /// The relay is shutting down.
    0x30 Going in [Relay];
    /// Something to know.
    0x31 Notice in [Relay];
    /// A manager has ended the attachment.
    0x32 Ended in [Relay];
    /// The relays of the group are others now.
    0x33 GroupChanged in [Relay];
    /// Who may use what may have changed.
    0x34 RightsChanged in [Relay];
    /// Who is there to be met may have changed.
    0x35 MeetingsChanged in [Relay];

    /// What was used.
    0x38 UsageRows in [Relay];
    /// Makes an exception from a limit.
    0x39 SetLimit in [Agent];
    /// A user's limits.
    0x3a LimitRows in [Relay];
    /// Asks for a user's limits.
    0x3b Limits in [Agent];
    /// Enrols this machine by a certificate.
    0x3c Certify in [Agent];
}

impl Control {
    /// The number of the request that this is or answers; `None` for what is said unasked.
    pub fn request(&self) -> Option<u64> {
        macro_rules! of {
            ($($name:ident)*) => {
                match self {
                    $( Control::$name(it) => Some(it.request), )*
                    Control::Going(_)
                    | Control::Notice(_)
                    | Control::Ended(_)
                    | Control::GroupChanged(_)
                    | Control::RightsChanged(_)
                    | Control::MeetingsChanged(_) => None,
                }
            };
        }
        of! {
            Attach Enrol WhoAmI Invite Publish Withdraw Allow Deny Services Resolve Users Machines Revoke
            MakeToken SignIn Prove Register SetPassword ChangeUser SetRole Group Events MayUse DecideService SetPublishing
            Meet Part
            Done Failed Identity Invited Published ServiceRows Resolved UserRows MachineRows Challenge Evaluated
            GroupList EventRows Met
            Certify
            Connections ConnectionRows Kick Usage UsageRows SetLimit Limits LimitRows
        }
    }

    /// The relay's answer to a request for services.
    pub fn of_services(request: u64, rows: Vec<ServiceRow>) -> Vec<Control> {
        pages(rows, |rows, more| {
            Control::from(ServiceRows {
                request,
                rows,
                more,
            })
        })
    }

    /// The relay's answer to a request for users.
    pub fn of_users(request: u64, rows: Vec<UserRow>) -> Vec<Control> {
        pages(rows, |rows, more| {
            Control::from(UserRows {
                request,
                rows,
                more,
            })
        })
    }

    /// The relay's answer to a request for machines.
    pub fn of_machines(request: u64, rows: Vec<MachineRow>) -> Vec<Control> {
        pages(rows, |rows, more| {
            Control::from(MachineRows {
                request,
                rows,
                more,
            })
        })
    }

    /// The relay's answer to a request for events.
    pub fn of_events(request: u64, rows: Vec<EventRow>) -> Vec<Control> {
        pages(rows, |rows, more| {
            Control::from(EventRows {
                request,
                rows,
                more,
            })
        })
    }
}

impl Control {
    /// The relay's answer to a request for sessions that live.
    pub fn of_connections(request: u64, rows: Vec<ConnectionRow>) -> Vec<Control> {
        pages(rows, |rows, more| {
            Control::from(ConnectionRows {
                request,
                rows,
                more,
            })
        })
    }

    /// The relay's answer to a request for usage.
    pub fn of_usage(request: u64, rows: Vec<UsageRow>) -> Vec<Control> {
        pages(rows, |rows, more| {
            Control::from(UsageRows {
                request,
                rows,
                more,
            })
        })
    }
}

/// Rows in as many messages as needed, at least one. Half of what a message may hold is
/// enough for the longest row.
fn pages<R: Fields>(rows: Vec<R>, message: impl Fn(Vec<R>, bool) -> Control) -> Vec<Control> {
    let mut messages = Vec::new();
    let mut page = Vec::new();
    let mut len = 0;
    for row in rows {
        let row_len = row.fields_len();
        if !page.is_empty() && len + row_len > MAX_CONTROL / 2 {
            messages.push(message(std::mem::take(&mut page), true));
            len = 0;
        }
        len += row_len;
        page.push(row);
    }
    messages.push(message(page, false));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: usize, allowed: usize) -> ServiceRow {
        ServiceRow {
            name: format!("service-{n}"),
            owner: "o".repeat(63),
            full_name: "f".repeat(255),
            description: "d".repeat(255),
            present: true,
            mine: true,
            publisher: [n as u8; 32],
            allowed: vec!["u".repeat(64); allowed],
            plain_http: false,
            state: ServiceState::Active,
        }
    }

    #[test]
    fn long_lists_come_in_messages_that_fit() {
        let rows: Vec<_> = (0..200).map(|n| row(n, n % 3 * 128)).collect();
        let messages = Control::of_services(7, rows.clone());
        assert!(messages.len() > 2);
        let mut decoder = ControlDecoder::new(Speaker::Relay);
        let mut received = Vec::new();
        for (n, message) in messages.iter().enumerate() {
            let mut buf = Vec::new();
            message.put_framed(&mut buf).unwrap();
            decoder.push(&buf);
            let Ok(Some(Control::ServiceRows(part))) = decoder.next() else {
                panic!("rows expected");
            };
            assert_eq!(part.more, n + 1 < messages.len());
            received.extend(part.rows);
        }
        assert_eq!(received, rows);
    }

    #[test]
    fn an_empty_list_is_one_message() {
        let (request, rows, more) = (7, vec![], false);
        let expected = UserRows {
            request,
            rows,
            more,
        };
        assert_eq!(Control::of_users(7, vec![]), [expected.into()]);
        assert_eq!(Control::of_machines(7, vec![])[0].request(), Some(7));
    }

    #[test]
    fn every_request_has_a_number_and_nothing_unasked_has() {
        for kind in ControlType::ALL {
            // Requests and answers that came later found no other numbers than those behind.
            let unasked = (0x30..0x38).contains(&kind.code());
            // The number is the first field of whatever has one; zeros serve for all others.
            let mut bytes = vec![0; 400];
            bytes[0] = u8::try_from(kind.code()).expect("codes below 64");
            bytes[1] = if unasked { 0 } else { 5 };
            let message = Control::decode(&mut bytes.into()).unwrap();
            assert_eq!(message.request(), (!unasked).then_some(5), "{kind:?}");
        }
    }

    #[test]
    fn a_hostile_list_takes_bounded_memory() {
        // Rows of empty names, each with as many empty names again as are allowed.
        let empty = ServiceRow {
            name: String::new(),
            owner: String::new(),
            full_name: String::new(),
            description: String::new(),
            present: false,
            mine: false,
            publisher: [0; 32],
            allowed: vec![String::new(); MAX_ALLOWED],
            plain_http: false,
            state: ServiceState::Active,
        };
        let count = (MAX_CONTROL - 16) / empty.fields_len();
        let message = Control::from(ServiceRows {
            request: 1,
            rows: vec![empty; count],
            more: false,
        });
        let mut buf = Vec::new();
        message.put_framed(&mut buf).unwrap();
        assert!(buf.len() > MAX_CONTROL - 400);
        let mut decoder = ControlDecoder::new(Speaker::Relay);
        decoder.push(&buf);
        let Ok(Some(Control::ServiceRows(ServiceRows { rows, .. }))) = decoder.next() else {
            panic!("rows expected");
        };
        let names = rows.iter().map(|row| row.allowed.capacity()).sum::<usize>();
        let memory = names * size_of::<String>() + rows.capacity() * size_of::<ServiceRow>();
        assert!(memory < 4 << 20, "{memory} bytes");
    }

    #[test]
    fn a_claimed_count_is_no_list() {
        let what = "UserRows.rows";
        let mut none = bytes::Bytes::from_static(b"\x27\x01\x50\x00");
        let error = crate::DecodeError::Truncated { what };
        assert_eq!(Control::decode(&mut none), Err(error));
        let mut many = bytes::Bytes::from_static(b"\x27\x01\x50\x01");
        let error = crate::DecodeError::TooLong { what, limit: 4096 };
        assert_eq!(Control::decode(&mut many), Err(error));
    }
}
