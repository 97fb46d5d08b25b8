//! Looking names up.

use crate::address::{self, Address};
use crate::c::{self, AddrInfo, HostEntry, c_char, c_int, c_void};
use crate::exchange::{Kept, Outcome, Redirector};
use crate::message::{self, Question};
use crate::name;
use crate::next::pass;
use crate::shims::reverse::{Room, STATIC};

/// What is known of a pseudo name.
pub(super) enum Found {
    /// Its address.
    Address(Address),
    /// There is no such service.
    Nothing,
    /// It could not be found out.
    Unclear,
}

/// Looks `name` up where it is a pseudo name and this process is hooked.
///
/// # Safety
/// `name` is null, or ends with a zero.
pub(super) unsafe fn look_up(name: *const c_char) -> Option<(Found, &'static [u8])> {
    // SAFETY: the caller promises it; the name outlives the call in which it was given, and is used in that only.
    let name = unsafe { name.as_ref().map(|name| c::bytes(name))? };
    let redirector = Redirector::find()?;
    let name = name::pseudo(name, redirector.suffix())?;
    let found = match redirector.ask(&Question::Address(name), &mut [0; message::MAX]) {
        Outcome::Answered(Kept::Address(address)) => Found::Address(address),
        Outcome::Answered(Kept::Unknown) => Found::Nothing,
        // To connect fails then, as with a host that is switched off; and nobody else is asked for the name.
        Outcome::Nobody => Found::Address(address::NOWHERE),
        _ => Found::Unclear,
    };
    Some((found, name))
}

/// getaddrinfo(3). The C library makes the result, of the address in digits: so it can free it too.
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const AddrInfo,
    result: *mut *mut AddrInfo,
) -> c_int {
    // SAFETY: as getaddrinfo(3) demands it.
    let found = unsafe { look_up(node) };
    let address = match found {
        None => return pass_getaddrinfo(node, service, hints, result),
        Some((Found::Address(address), _)) => address,
        Some((Found::Nothing, _)) => return c::EAI_NONAME,
        Some((Found::Unclear, _)) => return c::EAI_AGAIN,
    };
    // SAFETY: without hints all zeros mean: any.
    let mut own: AddrInfo = match unsafe { hints.as_ref() } {
        Some(hints) => *hints,
        // SAFETY: null pointers and zeros are values of all its fields.
        None => unsafe { core::mem::zeroed() },
    };
    // A machine whose only interface is the loopback one has no address "configured".
    own.flags = own.flags & !c::AI_ADDRCONFIG | c::AI_NUMERICHOST;
    let text = address::text(address);
    pass_getaddrinfo(text.as_ptr().cast(), service, &raw const own, result)
}

fn pass_getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const AddrInfo,
    result: *mut *mut AddrInfo,
) -> c_int {
    pass!(c"getaddrinfo":
        (*const c_char, *const c_char, *const AddrInfo, *mut *mut AddrInfo) -> c_int,
        (node, service, hints, result) else fail_lookup())
}

fn fail_lookup() -> c_int {
    c::set_errno(c::ENOSYS);
    c::EAI_SYSTEM
}

/// `getaddrinfo_a(3)`: what it hands over to threads of the C library cannot be followed, so a list with a pseudo name in it
/// is refused, and the name goes nowhere.
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn getaddrinfo_a(
    mode: c_int,
    list: *const *const *const c_char,
    count: c_int,
    event: *mut c_void,
) -> c_int {
    let redirector = Redirector::find();
    let suffix = redirector.as_ref().map_or(&[][..], Redirector::suffix);
    let ours = (0..usize::try_from(count).unwrap_or(0)).any(|place| {
        // SAFETY: as getaddrinfo_a(3) demands it; each request begins with its name.
        unsafe {
            let request = *list.add(place);
            let name = request.as_ref().and_then(|name| name.as_ref());
            name.is_some_and(|name| name::pseudo(c::bytes(name), suffix).is_some())
        }
    });
    if ours {
        return c::EAI_AGAIN;
    }
    pass!(c"getaddrinfo_a": (c_int, *const *const *const c_char, c_int, *mut c_void) -> c_int,
        (mode, list, count, event) else fail_lookup())
}

/// The entry of a host whose name was looked up, or what `h_errno` says.
fn entry(
    found: Found,
    name: &[u8],
    family: c_int,
    room: &mut Room<'_>,
) -> Result<*mut HostEntry, c_int> {
    match found {
        Found::Address(_) if family != c::AF_INET => Err(c::NO_DATA),
        Found::Address(address) => room.entry(name, address).ok_or(c::TRY_AGAIN),
        Found::Nothing => Err(c::HOST_NOT_FOUND),
        Found::Unclear => Err(c::TRY_AGAIN),
    }
}

/// The same in the memory of the process that all callers share, as gethostbyname(3) has it.
fn shared_entry(found: Found, name: &[u8], family: c_int) -> *mut HostEntry {
    // SAFETY: gethostbyname(3) and its like are not for several threads at once, and each call overwrites the last result.
    let mut room = unsafe { STATIC.room() };
    entry(found, name, family, &mut room).unwrap_or_else(|errno| {
        c::set_h_errno(errno);
        core::ptr::null_mut()
    })
}

/// gethostbyname(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn gethostbyname(name: *const c_char) -> *mut HostEntry {
    // SAFETY: as gethostbyname(3) demands it.
    match unsafe { look_up(name) } {
        None => pass!(c"gethostbyname": (*const c_char) -> *mut HostEntry, (name)
            else core::ptr::null_mut()),
        Some((found, name)) => shared_entry(found, name, c::AF_INET),
    }
}

/// gethostbyname2(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn gethostbyname2(name: *const c_char, family: c_int) -> *mut HostEntry {
    // SAFETY: as gethostbyname2(3) demands it.
    match unsafe { look_up(name) } {
        None => pass!(c"gethostbyname2": (*const c_char, c_int) -> *mut HostEntry, (name, family)
            else core::ptr::null_mut()),
        Some((found, name)) => shared_entry(found, name, family),
    }
}

/// gethostbyname_r(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn gethostbyname_r(
    name: *const c_char,
    place: *mut HostEntry,
    buffer: *mut c_char,
    length: usize,
    result: *mut *mut HostEntry,
    h_errno: *mut c_int,
) -> c_int {
    // SAFETY: as gethostbyname_r(3) demands it.
    let found = unsafe { look_up(name) };
    let Some((found, name)) = found else {
        return pass!(c"gethostbyname_r":
                (*const c_char, *mut HostEntry, *mut c_char, usize, *mut *mut HostEntry, *mut c_int) -> c_int,
                (name, place, buffer, length, result, h_errno) else c::ENOSYS);
    };
    let made = |room: &mut Room<'_>| entry(found, name, c::AF_INET, room);
    // SAFETY: as above.
    unsafe { hand_over(Room::given(place, buffer, length), made, result, h_errno) }
}

/// gethostbyname2_r(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn gethostbyname2_r(
    name: *const c_char,
    family: c_int,
    place: *mut HostEntry,
    buffer: *mut c_char,
    length: usize,
    result: *mut *mut HostEntry,
    h_errno: *mut c_int,
) -> c_int {
    // SAFETY: as gethostbyname2_r(3) demands it.
    let found = unsafe { look_up(name) };
    let Some((found, name)) = found else {
        return pass!(c"gethostbyname2_r":
                (*const c_char, c_int, *mut HostEntry, *mut c_char, usize, *mut *mut HostEntry, *mut c_int) -> c_int,
                (name, family, place, buffer, length, result, h_errno) else c::ENOSYS);
    };
    let made = |room: &mut Room<'_>| entry(found, name, family, room);
    // SAFETY: as above.
    unsafe { hand_over(Room::given(place, buffer, length), made, result, h_errno) }
}

/// Ends a function that makes an entry in its caller's memory: 0, or an error number. ERANGE asks for more memory.
///
/// # Safety
/// `result` and `h_errno` can be written to.
pub(super) unsafe fn hand_over(
    mut room: Room<'_>,
    made: impl FnOnce(&mut Room<'_>) -> Result<*mut HostEntry, c_int>,
    result: *mut *mut HostEntry,
    h_errno: *mut c_int,
) -> c_int {
    let made = made(&mut room);
    // SAFETY: the caller promises it.
    unsafe {
        *result = made.unwrap_or(core::ptr::null_mut());
        match made {
            Ok(_) => 0,
            Err(errno) => {
                *h_errno = if room.short { -1 } else { errno };
                if room.short { c::ERANGE } else { c::ENOENT }
            }
        }
    }
}
