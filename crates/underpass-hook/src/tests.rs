//! What the preloaded library needs and holds, and whether the C library is declared as it is.

use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};
use std::process::Command;

use crate::c;

/// Everything that hooking must cover, and nothing else.
const EXPORTED: &[&str] = &[
    "__res_nquery",
    "__res_nquerydomain",
    "__res_nsearch",
    "__res_query",
    "__res_querydomain",
    "__res_search",
    "connect",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "fexecve",
    "getaddrinfo",
    "getaddrinfo_a",
    "gethostbyaddr",
    "gethostbyaddr_r",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyname2_r",
    "gethostbyname_r",
    "getnameinfo",
    "getpeername",
    "posix_spawn",
    "posix_spawnp",
    "res_nquery",
    "res_nquerydomain",
    "res_nsearch",
    "res_query",
    "res_querydomain",
    "res_search",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "syscall",
];

/// What both C libraries have, under names without a version.
const IMPORTED: &[&str] = &[
    "__errno_location",
    "__h_errno_location",
    "abort",
    "bcmp",
    "bind",
    "close",
    "dlsym",
    "environ",
    "fcntl",
    "getenv",
    "getsockname",
    "getsockopt",
    "memcpy",
    "memmove",
    "memset",
    "open",
    "read",
    "recv",
    "send",
    "setsockopt",
    "socket",
    "strlen",
];

fn readelf(arguments: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), crate::LIBRARY).unwrap();
    let done = Command::new("readelf")
        .args(arguments)
        .arg(file.path())
        .output()
        .expect("binutils, which gcc needs too");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// The global symbols that are defined, and those that are not.
fn symbols() -> [BTreeSet<String>; 2] {
    let mut sets = [BTreeSet::new(), BTreeSet::new()];
    for line in readelf(&["--dyn-syms", "--wide"]).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, _, _, _, "GLOBAL" | "WEAK", _, place, name] = words[..] {
            sets[usize::from(place == "UND")].insert(name.to_owned());
        }
    }
    sets
}

#[test]
fn the_library_stands_before_all_functions_and_needs_only_what_every_c_library_has() {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let [defined, needed] = symbols();
    assert_eq!(defined, set(EXPORTED));
    let imported = set(IMPORTED);
    let more: Vec<_> = needed.difference(&imported).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn the_library_names_no_other_runs_nothing_at_the_start_and_has_no_thread_locals() {
    let dynamic = readelf(&["--dynamic", "--wide"]);
    assert!(
        dynamic.contains("(SYMTAB)") && dynamic.contains("[libunderpass_hook.so]"),
        "{dynamic}"
    );
    for word in ["(NEEDED)", "(INIT", "(FINI", "(TEXTREL)"] {
        assert!(!dynamic.contains(word), "{dynamic}");
    }
    let segments = readelf(&["--segments", "--wide"]);
    assert!(
        segments.contains("LOAD") && !segments.contains("TLS"),
        "{segments}"
    );
}

#[test]
fn the_numbers_are_those_of_the_c_library() {
    for (name, ours, theirs) in c::NUMBERS {
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn the_structures_are_those_of_the_c_library() {
    macro_rules! same {
        ($ours:ident $theirs:ident: $($field:ident $its:ident),*) => {
            assert_eq!(size_of::<c::$ours>(), size_of::<libc::$theirs>(), stringify!($theirs));
            $( assert_eq!(
                offset_of!(c::$ours, $field), offset_of!(libc::$theirs, $its), stringify!($its)
            ); )*
        };
    }
    same!(AddrInfo addrinfo: flags ai_flags, family ai_family, socktype ai_socktype, protocol ai_protocol,
        addrlen ai_addrlen, addr ai_addr, canonname ai_canonname, next ai_next);
    same!(HostEntry hostent: name h_name, aliases h_aliases, addrtype h_addrtype, length h_length,
        addr_list h_addr_list);
    same!(MessageHeader msghdr: name msg_name, namelen msg_namelen);
    same!(MessageHeaders mmsghdr: header msg_hdr, length msg_len);
    same!(TimeValue timeval: seconds tv_sec, microseconds tv_usec);
}

#[test]
fn the_suffix_is_a_name_that_dns_could_have() {
    let suffix = crate::name::SUFFIX.as_bytes();
    assert!(suffix.len() <= crate::name::MAX_SUFFIX);
    assert!(crate::name::pseudo(suffix, suffix).is_some());
}
