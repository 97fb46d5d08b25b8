//! The reasons for which things end or are refused.
//!
//! One table: the number is what RESET, STOP, CLOSE, REFUSED and refusals on routes and
//! control channels carry; the `UP-…` string is what people and scripts see. Neither ever
//! changes its meaning; `docs/errors.md` is made from the table.

use std::fmt;
use std::io::ErrorKind;

/// All that the table says about one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The stable string, `UP-…`.
    pub up: &'static str,
    /// What happened, as a clause that can stand after "cannot connect: ".
    pub what: &'static str,
    /// The likely cause.
    pub cause: &'static str,
    /// What to do next.
    pub next: &'static str,
    /// Whether the same request may succeed later although nobody does anything about it.
    pub retry: bool,
    /// What a program sees that knows only operating system errors.
    pub io: ErrorKind,
    /// The exit code of the command line: 0 ok, 1 failed, 2 usage, 3 denied, 4 not found,
    /// 5 unreachable, 6 waiting for approval, 7 ended by a manager.
    pub exit: u8,
}

macro_rules! codes {
    ($d:tt $(
        $(#[$meta:meta])*
        $number:literal $name:ident $constant:ident $up:literal, $io:ident, retry $retry:literal, exit $exit:literal:
            $what:literal, $cause:literal, $next:literal;
    )*) => {
        /// A reason from the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u64)]
        pub enum Code {
            $( #[doc = $what] $(#[$meta])* $name = $number, )*
        }

        $(
            #[doc = concat!("The number of [`Code::", stringify!($name), "`]: ", $what, ".")]
            pub const $constant: u64 = $number;
        )*

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &[Code] = &[$( Code::$name ),*];

            /// The code with this number, `None` where a newer peer knows more than we do.
            pub fn from_number(number: u64) -> Option<Code> {
                match number {
                    $( $number => Some(Code::$name), )*
                    _ => None,
                }
            }

            /// All that the table says about the code.
            pub fn explain(self) -> Explanation {
                match self {
                    $( Code::$name => Explanation {
                        up: $up,
                        what: $what,
                        cause: $cause,
                        next: $next,
                        retry: $retry,
                        io: ErrorKind::$io,
                        exit: $exit,
                    }, )*
                }
            }
        }

        /// Hands the table to another macro, for types that are made from it: rows of `number Name CONSTANT "what";`.
        #[macro_export]
        macro_rules! for_each_code {
            ($d with:ident) => {
                $d with! { $( $number $name $constant $what; )* }
            };
        }
    };
}

// A dollar of its own, since the macro defines another one.
codes! { $
    0x00 NoError NO_ERROR "UP-OK", Other, retry false, exit 0:
        "it ended as it should",
        "one side was done",
        "nothing to do";
    0x01 Refused REFUSED "UP-REFUSED", ConnectionRefused, retry false, exit 5:
        "the service's host refused the connection",
        "no program listens at the service's address",
        "start the program, or publish the address where it listens";
    0x02 Unreachable UNREACHABLE "UP-UNREACHABLE", HostUnreachable, retry true, exit 5:
        "the service's host cannot be reached",
        "it is switched off, or the publisher has no route to it",
        "try to reach the service from the publishing machine itself";
    0x03 TimedOut TIMED_OUT "UP-TIMEOUT", TimedOut, retry true, exit 5:
        "there was no answer in time",
        "a firewall drops the packets, or the host is overloaded",
        "try to reach the service from the publishing machine itself";
    0x04 Denied DENIED "UP-DENIED", PermissionDenied, retry false, exit 3:
        "you may not do this",
        "nobody has allowed it to your user",
        "ask the service's owner for: underpass services allow USER SERVICE";
    0x05 NoService NO_SERVICE "UP-NO-SERVICE", NotFound, retry false, exit 4:
        "there is no such service",
        "the name is misspelt, or the service is not published, or not to you",
        "list what you may use with: underpass services";
    0x06 ServiceAway SERVICE_AWAY "UP-AWAY", HostUnreachable, retry true, exit 5:
        "the machine that publishes the service is not connected",
        "it is switched off, or its agent does not run",
        "start there: underpass publish";
    0x07 Aborted ABORTED "UP-ABORTED", ConnectionReset, retry true, exit 1:
        "the program at the other end broke the connection off",
        "it crashed, was stopped, or closed with data unread",
        "look at the log of the program at the other end";
    0x08 Cancelled CANCELLED "UP-CANCELLED", ConnectionAborted, retry false, exit 1:
        "the one who asked has given up",
        "the program was stopped, or no longer needs the answer",
        "nothing to do";
    0x09 ProtocolViolation PROTOCOL_VIOLATION "UP-PROTOCOL", InvalidData, retry false, exit 1:
        "the peer broke the rules of the protocol",
        "one side has a defect, or is not what it claims to be",
        "update both sides; if it stays, report it with both logs";
    0x0a FlowControlViolation FLOW_CONTROL_VIOLATION "UP-FLOW", InvalidData, retry false, exit 1:
        "the peer sent more than it was allowed to",
        "the peer has a defect",
        "update both sides; if it stays, report it with both logs";
    0x0b KeyMismatch KEY_MISMATCH "UP-KEY", PermissionDenied, retry false, exit 3:
        "the peer shows another key than the one known for it",
        "it was installed anew, or somebody stands between you and it",
        "compare fingerprints with the peer's owner by another way before you accept the new one";
    0x0c VersionUnsupported VERSION_UNSUPPORTED "UP-VERSION", Unsupported, retry false, exit 1:
        "the two sides have no version of the protocol in common",
        "one side is much older than the other",
        "update the older side";
    0x0d UnknownSession UNKNOWN_SESSION "UP-NO-SESSION", NotConnected, retry false, exit 1:
        "the session is not known there",
        "that side was started anew, or the session has ended",
        "connect again";
    0x0e SessionExpired SESSION_EXPIRED "UP-EXPIRED", NotConnected, retry false, exit 1:
        "the session was kept for a while and has been given up",
        "the path was broken for longer than sessions are kept",
        "connect again; sessions can be set to be kept longer";
    0x0f CorruptPath CORRUPT_PATH "UP-CORRUPT", InvalidData, retry true, exit 5:
        "bytes were changed on the way",
        "a proxy or filter on the path alters what passes through it",
        "try another carrier with --carrier, or https:// instead of http://";
    0x10 GoingAway GOING_AWAY "UP-GOING", ConnectionAborted, retry true, exit 5:
        "the other side is shutting down",
        "it is being stopped or updated",
        "wait: agents connect again by themselves";
    0x11 Ended ENDED "UP-ENDED", ConnectionAborted, retry false, exit 7:
        "a manager ended the connection",
        "somebody with the right to do so decided it",
        "ask the relay's manager";
    0x12 NotEnrolled NOT_ENROLLED "UP-NOT-ENROLLED", PermissionDenied, retry false, exit 3:
        "this machine is not enrolled with the relay",
        "it has never logged in, or its enrolment was revoked",
        "get an invitation, then: underpass login RELAY --invite CODE";
    0x13 InvalidCode INVALID_CODE "UP-CODE", PermissionDenied, retry false, exit 3:
        "the one-time code is not valid",
        "it is misspelt, was used before, or is too old",
        "ask for a new one";
    0x14 Exists EXISTS "UP-EXISTS", AlreadyExists, retry false, exit 1:
        "this name is taken",
        "another service, user or machine has it",
        "choose another name, or remove the other one first";
    0x15 Busy BUSY "UP-BUSY", ResourceBusy, retry true, exit 1:
        "a limit has been reached",
        "too much is going on at once, for you or for the whole relay",
        "wait a little, or ask the relay's manager for a higher limit";
    0x16 Internal INTERNAL "UP-INTERNAL", Other, retry false, exit 1:
        "the other side has an internal error",
        "a defect in the program there",
        "report it with the log of the other side";
    0x17 StoreUnavailable STORE_UNAVAILABLE "UP-STORE", Other, retry true, exit 1:
        "the relay cannot use its database",
        "its disk is full or failing, or the database server is away",
        "look at the relay's log";
    0x18 NameInvalid NAME_INVALID "UP-NAME", InvalidInput, retry false, exit 2:
        "this is not a valid name",
        "names have 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last",
        "choose another name";
    0x19 NameAmbiguous NAME_AMBIGUOUS "UP-AMBIGUOUS", InvalidInput, retry false, exit 4:
        "several owners have a service of this name",
        "the name was given without its owner",
        "name the owner too: SERVICE.OWNER";
    0x1a NoUser NO_USER "UP-NO-USER", NotFound, retry false, exit 4:
        "there is no such user",
        "the name is misspelt, or the user was never invited",
        "list the users with: underpass users";
    0x1b NoMachine NO_MACHINE "UP-NO-MACHINE", NotFound, retry false, exit 4:
        "there is no such machine",
        "the name is misspelt, or the machine is not enrolled",
        "list users and machines with: underpass users";
    0x1c StaleResume STALE_RESUME "UP-STALE", ConnectionAborted, retry true, exit 1:
        "the session has gone on since this attempt to resume it was made",
        "an older copy of the attempt arrived late or was replayed",
        "nothing to do: agents resume again by themselves";
    0x1d ProxyUnreachable PROXY_UNREACHABLE "UP-PROXY", HostUnreachable, retry true, exit 5:
        "the proxy on the way to the relay cannot be reached, or is none",
        "its address is wrong or out of date, or it is switched off",
        "look at --proxy, HTTP_PROXY and HTTPS_PROXY; --proxy none goes without one";
    0x1e ProxyNeedsCredentials PROXY_NEEDS_CREDENTIALS "UP-PROXY-AUTH", PermissionDenied, retry false, exit 3:
        "the proxy on the way to the relay wants to know who asks",
        "there are no credentials for it, or none of a kind that it takes",
        "write `machine PROXY login USER password SECRET` into a file and name it with --proxy-credentials";
    0x1f ProxyWrongCredentials PROXY_WRONG_CREDENTIALS "UP-PROXY-DENIED", PermissionDenied, retry false, exit 3:
        "the proxy on the way to the relay does not accept the credentials",
        "user name or password is misspelt, or the password has changed",
        "put them right where they stand (--proxy-credentials, or the proxy's address); trying on may lock the account";
    0x20 ProxyRefused PROXY_REFUSED "UP-PROXY-REFUSED", PermissionDenied, retry false, exit 5:
        "the proxy on the way refuses connections to the relay",
        "it lets through some ports only (mostly 443), or some hosts only",
        "let the relay listen on port 443, or ask whoever runs the proxy to allow it";
    0x21 ProxyCannotReach PROXY_CANNOT_REACH "UP-PROXY-NO-PATH", HostUnreachable, retry true, exit 5:
        "the proxy on the way cannot reach the relay",
        "the relay does not run, or its address is wrong or means something else at the proxy",
        "try the relay's address in a web browser that uses the same proxy";
    0x22 PacUnusable PAC_UNUSABLE "UP-PAC", InvalidInput, retry false, exit 1:
        "the PAC file does not tell a way to the relay",
        "it cannot be fetched, or has a mistake in it",
        "look at --pac; --proxy URL names a proxy without it";
    0x23 Portal PORTAL "UP-PORTAL", NotConnected, retry false, exit 5:
        "a web page answers in the relay's place",
        "this network wants somebody to log in first, or the address is not a relay's",
        "open any http:// page in a web browser on this machine and log in; or correct the relay's address";
    0x24 Certificate CERTIFICATE "UP-CERTIFICATE", PermissionDenied, retry false, exit 3:
        "nobody vouches for the certificate that is shown for the relay",
        "a box on the way opens TLS with a certificate of its own, or the relay has a new one",
        "if it is your company's box: --ca FILE with its root certificate; if the relay has a new one: underpass login RELAY";
    0x25 InvalidToken INVALID_TOKEN "UP-TOKEN", PermissionDenied, retry false, exit 3:
        "the token is not valid",
        "it is missing, misspelt, revoked or expired, or its user is shut out",
        "make a new one with: underpass users token NAME";
    0x26 WrongOffset WRONG_OFFSET "UP-OFFSET", InvalidInput, retry false, exit 1:
        "the bytes do not stand where they should in the stream",
        "some before them are missing, or were acknowledged and forgotten",
        "go on from the offset that the answer names";
    0x27 TooLarge TOO_LARGE "UP-TOO-LARGE", InvalidInput, retry false, exit 1:
        "the request's body is too large",
        "the client sends more at once than the relay takes",
        "send it in several requests";
    0x28 TooManyAttempts TOO_MANY_ATTEMPTS "UP-ATTEMPTS", PermissionDenied, retry true, exit 3:
        "too many wrong tokens or passwords came from this address",
        "somebody goes on with a token or password that is misspelt, revoked or expired, or guesses",
        "wait for as long as the answer says, then show a token or password that is valid";
    0x29 TicketUnknown TICKET_UNKNOWN "UP-TICKET", NotConnected, retry true, exit 5:
        "the ticket is not good",
        "it was used before, has expired, or is not this machine's or this session's",
        "nothing to do: the agent re-opens the path by the service's name";
    0x2a AuthorityUnreachable AUTHORITY_UNREACHABLE "UP-AUTHORITY", HostUnreachable, retry true, exit 5:
        "the relay cannot reach its ticket authority",
        "the authority is down or is being started anew",
        "wait: agents try again by themselves; living connections go on; the relay's log says more";
    0x2b MayNotRetarget MAY_NOT_RETARGET "UP-NO-RETARGET", PermissionDenied, retry false, exit 3:
        "this machine may not lead the service elsewhere",
        "its publisher has not named this machine's key when it published the service",
        "on the publishing machine: underpass publish ... --retarget-by FINGERPRINT, which underpass status shows on this one";
    0x2c NoRedial NO_REDIAL "UP-NO-REDIAL", PermissionDenied, retry false, exit 3:
        "connections to the service may not be moved while they last",
        "it was published without --redial",
        "leave --now out: new connections go to the new host; or publish it with --redial";
    0x2d WrongPassword WRONG_PASSWORD "UP-PASSWORD", PermissionDenied, retry false, exit 3:
        "the relay knows no user of this name with this password",
        "one of them is misspelt, the user has no password, or the relay is not the one you mean",
        "try again; if you are new there: underpass login RELAY --user NAME --register";
    0x2e Waiting WAITING "UP-WAITING", PermissionDenied, retry false, exit 6:
        "the user waits for a manager's approval",
        "it is new, and nobody has decided yet",
        "ask a manager for: underpass users approve NAME; then try again, or wait with: underpass login RELAY --wait TIME";
    0x2f LastAdministrator LAST_ADMINISTRATOR "UP-LAST-ADMIN", PermissionDenied, retry false, exit 3:
        "this is the relay's last administrator",
        "without one nobody could set the relay up any more",
        "make another user administrator first: underpass users role NAME administrator";
    0x30 Decided DECIDED "UP-DECIDED", InvalidInput, retry false, exit 1:
        "the user or service does not wait for approval",
        "somebody has decided already",
        "look with: underpass users, or underpass services";
    0x31 NoGroup NO_GROUP "UP-NO-GROUP", NotFound, retry false, exit 4:
        "the relay announces no other relays",
        "it stands alone, or is run without --announce",
        "nothing to do; several relays can be named with --relay";
    0x32 GroupUnreadable GROUP_UNREADABLE "UP-GROUP-UNREADABLE", InvalidData, retry false, exit 1:
        "the list of relays cannot be read",
        "it is cut off, not signed, or has a mistake in it",
        "put it right and sign it: underpass relay group sign";
    0x33 GroupSignature GROUP_SIGNATURE "UP-GROUP-SIGNATURE", PermissionDenied, retry false, exit 3:
        "the list of relays is not signed by the key that it names",
        "it was changed after it was signed, by mistake or by somebody who may not",
        "sign it again: underpass relay group sign; if nobody has changed it, look into the relay that announces it";
    0x34 GroupKey GROUP_KEY "UP-GROUP-KEY", PermissionDenied, retry false, exit 3:
        "the list of relays is signed by another key than the group's",
        "the group has a new key, or the relay is not what it was",
        "ask whoever runs the group; if the new key is right: underpass login RELAY --group KEY";
    0x35 GroupSerial GROUP_SERIAL "UP-GROUP-SERIAL", PermissionDenied, retry false, exit 3:
        "the list of relays is older than the one that is known, or another one with the same serial",
        "a relay was not given the newest list yet, or somebody brings an old one back",
        "give the newest list to all relays of the group, and have them read it: kill -HUP";
    0x36 ServiceWaiting SERVICE_WAITING "UP-SERVICE-WAITING", PermissionDenied, retry false, exit 6:
        "the service waits for a manager's approval",
        "this relay wants one for what this user publishes, and nobody has decided yet",
        "ask a manager for: underpass services approve SERVICE.OWNER; underpass publish goes on by itself then";
    0x37 ServiceRefused SERVICE_REFUSED "UP-SERVICE-REFUSED", PermissionDenied, retry false, exit 3:
        "a manager has refused the service",
        "it is not to be published by this relay",
        "ask the relay's manager; underpass services withdraw NAME forgets it, and publishing it again asks anew";
    0x38 OtherTransport OTHER_TRANSPORT "UP-TRANSPORT", ConnectionRefused, retry false, exit 1:
        "the service takes datagrams and not connections, or connections and not datagrams",
        "it was published with udp: before its host, or without, and is used the other way",
        "underpass connect NAME udp:PORT for a service of UDP; underpass connect NAME PORT for one of TCP";
    0x40 PeerWaiting PEER_WAITING "UP-PEER-WAITING", HostUnreachable, retry true, exit 6:
        "the other side is not there yet",
        "nobody there wishes the same meeting at the moment, or the other side has gone again",
        "start there: underpass meet YOU APPLICATION; without --wait this side waits as long as it takes";
    0x41 Connected CONNECTED "UP-CONNECTED", AlreadyExists, retry false, exit 1:
        "the same connection exists already",
        "another program of this machine meets the same user for the same application, or the other side has met another machine",
        "use that one, end it, or choose another application; of a program that crashed the relay knows within a minute or two";
    0x42 Oneself ONESELF "UP-SELF", InvalidInput, retry false, exit 2:
        "nobody can meet themselves",
        "the user is you, and no other machine of yours is enrolled, or it is this machine that publishes the service",
        "name another user; to meet another machine of your own, log in there first";
    0x48 GradeRefused GRADE_REFUSED "UP-GRADE", PermissionDenied, retry false, exit 3:
        "so little secrecy is not allowed there",
        "the service was published, or the relay is set up, for a higher grade than the one that was asked for",
        "connect with --grade blind; or allow it: --lowest-grade of underpass publish and of underpass relay";
    0x50 NoConnection NO_CONNECTION "UP-NO-CONNECTION", NotFound, retry false, exit 4:
        "there is no such connection",
        "it has ended, its name is misspelt, or it is not yours",
        "list those that there are with: underpass connections list";
    0x51 AttachmentLimit ATTACHMENT_LIMIT "UP-LIMIT-ATTACHMENTS", QuotaExceeded, retry true, exit 3:
        "the user has as many attachments as are allowed",
        "agents of this user run on many machines, or several on one",
        "end one of them; or ask a manager for: underpass users limit USER --attachments NUMBER";
    0x52 SessionLimit SESSION_LIMIT "UP-LIMIT-SESSIONS", QuotaExceeded, retry true, exit 3:
        "the user has as many sessions as are allowed",
        "many are open at once, or were left open",
        "end one of them (underpass connections list); or ask a manager for: underpass users limit USER --sessions NUMBER";
    0x53 ChannelLimit CHANNEL_LIMIT "UP-LIMIT-CHANNELS", QuotaExceeded, retry true, exit 3:
        "the user has as many channels to the relay's own services, or by plain HTTP, as are allowed",
        "many are open at once, or were left open",
        "end one of them (underpass connections list); or ask a manager for: underpass users limit USER --channels NUMBER";
    0x54 MonthLimit MONTH_LIMIT "UP-LIMIT-MONTH", QuotaExceeded, retry false, exit 3:
        "the user has used all bytes that are allowed in a month",
        "so much has passed in the user's sessions since the first of the month (underpass usage)",
        "wait for the next month (UTC); or ask a manager for: underpass users limit USER --bytes-per-month SIZE";
    0x58 CertificateUntrusted CERTIFICATE_UNTRUSTED "UP-CERT-UNTRUSTED", PermissionDenied, retry false, exit 3:
        "the relay does not trust this machine's certificate",
        "none of its authorities has signed it, or what lies between is missing from the file",
        "put the certificates between it and the authority behind it into the file; or ask the relay's manager which authority to go to";
    0x59 CertificateExpired CERTIFICATE_EXPIRED "UP-CERT-EXPIRED", PermissionDenied, retry false, exit 3:
        "this machine's certificate has expired",
        "it was not renewed in time, or a clock is wrong",
        "get a new one of the same user, then: underpass login RELAY --certificate FILE --key FILE";
    0x5a CertificateEarly CERTIFICATE_EARLY "UP-CERT-EARLY", PermissionDenied, retry true, exit 3:
        "this machine's certificate is not valid yet",
        "it was made for later, or a clock is wrong",
        "wait until then, or put the clock right";
    0x5b CertificateRevoked CERTIFICATE_REVOKED "UP-CERT-REVOKED", PermissionDenied, retry false, exit 3:
        "this machine's certificate was revoked",
        "its authority says that it is not to be used any more",
        "get a new one of the same user, then: underpass login RELAY --certificate FILE --key FILE";
    0x5c CertificatePurpose CERTIFICATE_PURPOSE "UP-CERT-PURPOSE", PermissionDenied, retry false, exit 3:
        "this machine's certificate is for another purpose",
        "it was made for a server, for signing, or for something else, and not for a client",
        "get one with the extended key usage clientAuth";
    0x5d CertificateUser CERTIFICATE_USER "UP-CERT-USER", PermissionDenied, retry false, exit 3:
        "the certificate names no user of the relay",
        "what the relay reads the user from is missing in it, stands there twice, or cannot be a user's name",
        "ask the relay's manager how certificates name users there (certificate_name)";
    0x5e CertificateUnchecked CERTIFICATE_UNCHECKED "UP-CERT-UNCHECKED", PermissionDenied, retry true, exit 3:
        "the relay cannot find out whether this machine's certificate was revoked",
        "its revocation list is too old, or it has none of the certificate's authority",
        "ask the relay's manager for the newest revocation list (certificate_revocations)";
    0x5f CertificateProof CERTIFICATE_PROOF "UP-CERT-PROOF", PermissionDenied, retry false, exit 3:
        "the machine did not prove that it holds the certificate's key",
        "certificate and key do not fit together, or somebody repeats what another machine has sent",
        "look whether the two files belong to one another";
    0x60 NoReceiver NO_RECEIVER "UP-NO-RECEIVER", NotFound, retry false, exit 4:
        "this user receives no files, or none from you",
        "the name is misspelt, the user has never run underpass receive, or has not let you send",
        "ask the user for: underpass receive --from YOU";
    0x61 ReceiverAway RECEIVER_AWAY "UP-RECEIVER-AWAY", HostUnreachable, retry true, exit 5:
        "this user is not receiving files now",
        "underpass receive does not run there, or its machine is off",
        "have it started there, and send again; --wait TIME waits for it";
    0x62 SenderRefused SENDER_REFUSED "UP-SENDER", PermissionDenied, retry false, exit 3:
        "this user takes no files from you",
        "the receiver was started for other users or machines only, or yours was taken off the list",
        "ask the user for: underpass receive --from YOU";
    0x63 PathRefused PATH_REFUSED "UP-PATH", PermissionDenied, retry false, exit 3:
        "the name of a file leads out of the receiver's folder, or is none on other systems",
        "it is absolute, has .. or control characters in it, means a device, or there is a link in its way",
        "rename it";
    0x64 DiskFull DISK_FULL "UP-DISK-FULL", StorageFull, retry false, exit 1:
        "the receiver's disk is full",
        "there is no room for what is sent, or the receiver's share of it is used up",
        "make room there, and send the same again: it goes on where it stopped";
    0x65 FileExists FILE_EXISTS "UP-FILE-EXISTS", AlreadyExists, retry false, exit 1:
        "the receiver has another file of this name",
        "it was received before, or is the receiver's own",
        "have it moved away there, send under another name, or have the receiver started with --overwrite";
    0x66 Checksum CHECKSUM "UP-CHECKSUM", InvalidData, retry false, exit 1:
        "the bytes that arrived are not those that were sent",
        "memory or a disk is failing at either end, or somebody writes to the file meanwhile",
        "send it again; if it stays, compare sha256sum of the file at both ends";
    0x67 FileChanged FILE_CHANGED "UP-FILE-CHANGED", InvalidData, retry false, exit 1:
        "the file changed, or went away, while it was being sent",
        "a program writes to it",
        "send it again when that has ended; what did not change is not sent twice";
    0x68 MessageTooLarge MESSAGE_TOO_LARGE "UP-MESSAGE-SIZE", InvalidInput, retry false, exit 1:
        "a message is larger than its receiver takes",
        "the two sides have different bounds, or the other side does not send messages",
        "give the receiver a higher bound, or send it in parts";
    0x69 NoMessage NO_MESSAGE "UP-NO-MESSAGE", TimedOut, retry true, exit 1:
        "no message came in time",
        "the other side has not sent one yet",
        "ask again, or with a longer limit; nothing is lost by asking";
    0x6a Disconnected DISCONNECTED "UP-DISCONNECTED", NotConnected, retry false, exit 1:
        "this side has disconnected",
        "the program was done, or has ended what it still uses",
        "attach again";
    0x6b BadSetting BAD_SETTING "UP-SETTING", InvalidInput, retry false, exit 2:
        "a setting has a value that cannot be used",
        "it is missing, misspelt or out of its range",
        "correct it: the message names it";
    0x70 HostNeeded HOST_NEEDED "UP-HOST-NEEDED", InvalidInput, retry false, exit 2:
        "the service is a whole network, of which a host and a port must be named",
        "the service was named alone, or the host without a port",
        "underpass connect HOST.SERVICE:PORT, or a program under underpass run that goes to a port of HOST.SERVICE.underpass.internal";
    0x71 HostNotListed HOST_NOT_LISTED "UP-HOST-NOT-LISTED", PermissionDenied, retry false, exit 3:
        "this host is not among those that are published",
        "its address is in none of the networks that were named, or its name is not among the hosts that were",
        "ask the publisher's owner for a network or --hosts that has it; what is there: underpass services";
    0x72 PortNotListed PORT_NOT_LISTED "UP-PORT-NOT-LISTED", PermissionDenied, retry false, exit 3:
        "this port is not among those that are published",
        "the network was published without it",
        "ask the publisher's owner for --ports that has it";
    0x73 HostForbidden HOST_FORBIDDEN "UP-HOST-FORBIDDEN", PermissionDenied, retry false, exit 3:
        "no network that is published leads to this address",
        "it is the publisher's own, or one of loopback, link-local, multicast or metadata services, or has another one inside",
        "publish what is there as a service of its own: underpass publish NAME HOST:PORT";
    0x74 HostUnknown HOST_UNKNOWN "UP-HOST-UNKNOWN", HostUnreachable, retry true, exit 4:
        "the publisher finds no address for this host's name",
        "the name is misspelt, or the publisher's name server does not know it",
        "look the name up on the publishing machine, or name the host by its address";
    0x75 NoNetwork NO_NETWORK "UP-NO-NETWORK", NotFound, retry false, exit 4:
        "the service is one host, and no network of which another one can be named",
        "something stands before its name that does not belong there",
        "leave the host out: SERVICE or SERVICE.OWNER";
    0x78 FtpNeedsHelp FTP_NEEDS_HELP "UP-FTP", ConnectionRefused, retry false, exit 1:
        "the service speaks FTP, and what asks for it carries one connection only",
        "it is used by standard input and output, by SOCKS or HTTP, or by an agent that knows nothing of FTP",
        "underpass connect NAME PORT, and point the FTP program at that port; or update the agent";
    0x79 FtpTls FTP_TLS "UP-FTP-TLS", Unsupported, retry false, exit 1:
        "the FTP program wants TLS, behind which no agent sees the ports that FTP opens",
        "it is set to use TLS, or tries that first",
        "switch TLS off in the FTP program: what passes between the agents is sealed without it; or use SFTP";
    0x7a FtpAddress FTP_ADDRESS "UP-FTP-ADDRESS", PermissionDenied, retry false, exit 3:
        "FTP was told to open a connection to a place that is not the one who asks",
        "the FTP program does not know its own address, or wants to misuse the server",
        "switch the FTP program to passive mode";
    0x7b FtpNotAnnounced FTP_NOT_ANNOUNCED "UP-FTP-DATA", PermissionDenied, retry false, exit 3:
        "nobody has announced this data connection of FTP",
        "its control connection has ended, or has announced another one since",
        "try the transfer again";
    0x7c WrongCookie WRONG_COOKIE "UP-DISPLAY", PermissionDenied, retry false, exit 3:
        "the program does not show the cookie of this display",
        "it runs under another user, or XAUTHORITY names another file than the agent has written to",
        "start it with the DISPLAY and XAUTHORITY that underpass connect names";
    0x7d OtherProtocol OTHER_PROTOCOL "UP-SPEECH", InvalidData, retry false, exit 1:
        "what was said is not of the protocol that the service was published with",
        "the program speaks another one, or what stands before the host is wrong",
        "publish the service without ftp:, x11: or http: before its host";
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// The stable string, `UP-…`.
    pub fn up(self) -> &'static str {
        self.explain().up
    }

    /// Whether the same request may succeed later although nobody does anything about it.
    pub fn retry_helps(self) -> bool {
        self.explain().retry
    }

    /// What a program sees that knows only operating system errors.
    pub fn io_kind(self) -> ErrorKind {
        self.explain().io
    }

    /// The code that tells a far program best what the operating system said here.
    pub fn of_io(kind: ErrorKind) -> Code {
        match kind {
            ErrorKind::ConnectionRefused => Code::Refused,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable => Code::Unreachable,
            ErrorKind::TimedOut => Code::TimedOut,
            ErrorKind::PermissionDenied => Code::Denied,
            ErrorKind::NotFound => Code::Unreachable,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Code::Aborted,
            ErrorKind::ResourceBusy | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory => {
                Code::Busy
            }
            _ => Code::Internal,
        }
    }
}

impl fmt::Display for Code {
    /// `what happened (likely cause); what to do next [UP-…]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation {
            up,
            what,
            cause,
            next,
            ..
        } = self.explain();
        write!(f, "{what} ({cause}); {next} [{up}]")
    }
}

/// The stable string for any number that a peer sent, known or not.
pub fn name(number: u64) -> &'static str {
    Code::from_number(number).map_or("UP-UNKNOWN", Code::up)
}

/// The sentence for any number that a peer sent, known or not.
pub fn describe(number: u64) -> String {
    match Code::from_number(number) {
        Some(code) => code.to_string(),
        None => format!("code {number:#x}, which this version does not know; update this side"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::specification::compare;

    /// `docs/errors.md` as the table has it.
    fn document() -> String {
        let mut text = String::from(
            "# Error codes\n\n\
             Each error carries one of these codes. The string never changes its meaning, so scripts may rely on it;\n\
             the number is the same code on the wire. This page is made from the table in\n\
             `crates/underpass-proto/src/code.rs`; a test compares them (`UNDERPASS_BLESS=1 cargo test -p underpass-proto` writes it anew).\n\n\
             | code | number | exit code | retry helps | operating system error |\n|---|---|---|---|---|\n",
        );
        for code in Code::ALL {
            let it = code.explain();
            let retry = if it.retry { "yes" } else { "no" };
            let (number, io) = (code.number(), it.io);
            text += &format!(
                "| [`{}`](#{}) | {number:#04x} | {} | {retry} | `{io:?}` |\n",
                it.up,
                it.up.to_lowercase(),
                it.exit
            );
        }
        for code in Code::ALL {
            let it = code.explain();
            text += &format!(
                "\n## {}\n\n- What happened: {}.\n- Likely cause: {}.\n- Next step: {}.\n",
                it.up, it.what, it.cause, it.next
            );
        }
        text
    }

    #[test]
    fn the_page_of_errors_is_the_table() {
        compare("docs/errors.md", |_| document());
    }

    #[test]
    fn numbers_and_strings_are_unique_and_found_again() {
        let strings: HashSet<_> = Code::ALL.iter().map(|code| code.up()).collect();
        assert_eq!(strings.len(), Code::ALL.len());
        // Ascending, with gaps.
        assert!(Code::ALL.is_sorted_by(|one, next| one < next));
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert!(code.up().starts_with("UP-"));
            assert_eq!(name(code.number()), code.up());
        }
        assert_eq!(name(u64::MAX), "UP-UNKNOWN");
        assert_eq!(PROTOCOL_VIOLATION, Code::ProtocolViolation.number());
        assert_eq!(Code::from_number(0x3fff), None);
    }

    #[test]
    fn a_failed_dial_is_seen_at_the_other_end_as_it_was() {
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::HostUnreachable,
            ErrorKind::TimedOut,
            ErrorKind::ConnectionReset,
            ErrorKind::PermissionDenied,
        ] {
            assert_eq!(Code::of_io(kind).io_kind(), kind);
        }
    }

    #[test]
    fn sentences_say_what_why_and_what_next() {
        assert_eq!(
            describe(0x13),
            "the one-time code is not valid (it is misspelt, was used before, or is too old); \
             ask for a new one [UP-CODE]"
        );
        assert!(describe(9999).contains("0x270f"));
    }
}
