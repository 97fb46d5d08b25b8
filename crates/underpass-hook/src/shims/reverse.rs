//! The names of addresses, and entries of hosts.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::address::{Address, Target, is_pseudo};
use crate::c::{self, HostEntry, Length, Sockaddr, c_char, c_int, c_uint, c_void};
use crate::exchange::{Kept, Outcome, Redirector};
use crate::message::{self, Question};
use crate::name;
use crate::next::pass;
use crate::shims::lookup::hand_over;

/// What an entry points to.
#[repr(C)]
struct Parts {
    addresses: [*mut c_char; 2],
    aliases: [*mut c_char; 1],
    address: Address,
}

/// The memory for one entry.
pub(super) struct Room<'a> {
    place: *mut HostEntry,
    buffer: *mut u8,
    length: usize,
    /// Whether there was too little of it.
    pub(super) short: bool,
    lent: PhantomData<&'a mut u8>,
}

/// Memory for the functions that return a pointer to their own.
pub(super) struct Shared {
    entry: UnsafeCell<MaybeUninit<HostEntry>>,
    buffer: UnsafeCell<[u64; 48]>,
}

// SAFETY: those who use it promise to be alone with it (see `Shared::room`).
unsafe impl Sync for Shared {}

/// That of this process.
pub(super) static STATIC: Shared = Shared {
    entry: UnsafeCell::new(MaybeUninit::uninit()),
    buffer: UnsafeCell::new([0; 48]),
};

impl Shared {
    /// # Safety
    /// Nobody else uses it at the same time; what was made in it before is void.
    pub(super) unsafe fn room(&self) -> Room<'_> {
        Room {
            place: self.entry.get().cast(),
            buffer: self.buffer.get().cast(),
            length: 48 * 8,
            short: false,
            lent: PhantomData,
        }
    }
}

impl Room<'_> {
    /// What a caller gave.
    ///
    /// # Safety
    /// `place` and the `length` bytes at `buffer` can be written to for as long as this lives.
    pub(super) unsafe fn given(place: *mut HostEntry, buffer: *mut c_char, length: usize) -> Self {
        Self {
            place,
            buffer: buffer.cast(),
            length,
            short: false,
            lent: PhantomData,
        }
    }

    /// Makes the entry of a host with one address; `None` where there is too little room.
    pub(super) fn entry(&mut self, name: &[u8], address: Address) -> Option<*mut HostEntry> {
        let skip = self.buffer.align_offset(align_of::<Parts>());
        let needed = skip.checked_add(size_of::<Parts>() + name.len() + 1)?;
        self.short = needed > self.length;
        if self.short {
            return None;
        }
        // SAFETY: whoever made this room promised that it can be written to; all that is written lies within `needed`, and
        // `Parts` where it is aligned.
        unsafe {
            let parts = self.buffer.add(skip).cast::<Parts>();
            let text = parts.add(1).cast::<u8>();
            core::ptr::copy_nonoverlapping(name.as_ptr(), text, name.len());
            text.add(name.len()).write(0);
            parts.write(Parts {
                addresses: [(&raw mut (*parts).address).cast(), core::ptr::null_mut()],
                aliases: [core::ptr::null_mut()],
                address,
            });
            self.place.write(HostEntry {
                name: text.cast(),
                aliases: (&raw mut (*parts).aliases).cast(),
                addrtype: c::AF_INET,
                length: size_of::<Address>() as c_int,
                addr_list: (&raw mut (*parts).addresses).cast(),
            });
        }
        Some(self.place)
    }
}

/// The name of a pseudo address, in `buffer`; its length.
fn name_of(address: Address, buffer: &mut [u8; message::MAX]) -> Option<Result<usize, c_int>> {
    let redirector = Redirector::find().filter(|_| is_pseudo(address))?;
    Some(match redirector.ask(&Question::Name(address), buffer) {
        Outcome::Answered(Kept::Name(length)) => Ok(length.min(name::MAX)),
        _ => Err(c::HOST_NOT_FOUND),
    })
}

/// The address that a program asks for, where it can be one of ours.
///
/// # Safety
/// `address` has `length` bytes.
unsafe fn asked(address: *const c_void, length: Length, family: c_int) -> Option<Address> {
    let plain = family == c::AF_INET && length as usize >= size_of::<Address>();
    // SAFETY: the caller promises it.
    plain.then(|| unsafe { address.cast::<Address>().read_unaligned() })
}

/// gethostbyaddr(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn gethostbyaddr(
    address: *const c_void,
    length: Length,
    family: c_int,
) -> *mut HostEntry {
    let mut buffer = [0; message::MAX];
    // SAFETY: as gethostbyaddr(3) demands it.
    let asked = unsafe { asked(address, length, family) };
    let Some((asked, named)) = asked.and_then(|it| Some((it, name_of(it, &mut buffer)?))) else {
        return pass!(c"gethostbyaddr": (*const c_void, Length, c_int) -> *mut HostEntry,
            (address, length, family) else core::ptr::null_mut());
    };
    let made = named.and_then(|length| {
        // SAFETY: gethostbyaddr(3) is not for several threads at once, and each call overwrites the last result.
        let mut room = unsafe { STATIC.room() };
        room.entry(&buffer[..length], asked).ok_or(c::TRY_AGAIN)
    });
    made.unwrap_or_else(|errno| {
        c::set_h_errno(errno);
        core::ptr::null_mut()
    })
}

/// gethostbyaddr_r(3)
#[cfg_attr(preload, unsafe(no_mangle))]
#[allow(clippy::too_many_arguments, reason = "the C library's")]
pub unsafe extern "C" fn gethostbyaddr_r(
    address: *const c_void,
    length: Length,
    family: c_int,
    place: *mut HostEntry,
    room: *mut c_char,
    room_length: usize,
    result: *mut *mut HostEntry,
    h_errno: *mut c_int,
) -> c_int {
    let mut buffer = [0; message::MAX];
    // SAFETY: as gethostbyaddr_r(3) demands it.
    let asked = unsafe { asked(address, length, family) };
    let Some((asked, named)) = asked.and_then(|it| Some((it, name_of(it, &mut buffer)?))) else {
        return pass!(c"gethostbyaddr_r":
                (*const c_void, Length, c_int, *mut HostEntry, *mut c_char, usize, *mut *mut HostEntry, *mut c_int) -> c_int,
                (address, length, family, place, room, room_length, result, h_errno)
                else c::ENOSYS);
    };
    let made = |room: &mut Room<'_>| room.entry(&buffer[..named?], asked).ok_or(c::TRY_AGAIN);
    // SAFETY: as above.
    unsafe { hand_over(Room::given(place, room, room_length), made, result, h_errno) }
}

/// getnameinfo(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn getnameinfo(
    address: *const Sockaddr,
    length: Length,
    host: *mut c_char,
    host_length: Length,
    service: *mut c_char,
    service_length: Length,
    flags: c_int,
) -> c_int {
    let pass = |host: *mut c_char, host_length: Length, flags: c_int| {
        pass!(c"getnameinfo":
            (*const Sockaddr, Length, *mut c_char, Length, *mut c_char, Length, c_int) -> c_int,
            (address, length, host, host_length, service, service_length, flags)
            else c::EAI_SYSTEM)
    };
    let wants_name = !host.is_null() && host_length > 0 && flags & c::NI_NUMERICHOST == 0;
    // SAFETY: as getnameinfo(3) demands it.
    let target = unsafe { read(address, length) }.filter(|_| wants_name);
    let mut buffer = [0; message::MAX];
    let Some(named) = target.and_then(|target| name_of(target.address, &mut buffer)) else {
        return pass(host, host_length, flags);
    };
    let Ok(name) = named.map(|length| &buffer[..length]) else {
        return match flags & c::NI_NAMEREQD {
            0 => pass(host, host_length, flags | c::NI_NUMERICHOST),
            _ => c::EAI_NONAME,
        };
    };
    if name.len() >= host_length as c_uint as usize {
        return c::EAI_OVERFLOW;
    }
    // SAFETY: as getnameinfo(3) demands it; the name and a zero fit.
    unsafe {
        core::ptr::copy_nonoverlapping(name.as_ptr().cast(), host, name.len());
        host.add(name.len()).write(0);
    }
    if service.is_null() || service_length == 0 {
        return 0;
    }
    pass(core::ptr::null_mut(), 0, flags & !c::NI_NAMEREQD)
}

/// # Safety
/// `address` is null or as long as said.
unsafe fn read(address: *const Sockaddr, length: Length) -> Option<Target> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the caller promises it.
    Target::read(unsafe { core::slice::from_raw_parts(address, length as usize) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn an_entry_needs_all_its_room_and_no_more() {
        for misaligned in 0..8 {
            let mut memory = [0xffu8; 128];
            let mut place = MaybeUninit::<HostEntry>::uninit();
            let parts = size_of::<Parts>();
            let mut shortest = None;
            for length in 0..100 {
                let buffer = memory[misaligned..].as_mut_ptr();
                // SAFETY: both live through the loop, and `length` is within the memory.
                let mut room = unsafe { Room::given(place.as_mut_ptr(), buffer.cast(), length) };
                match room.entry(b"db.underpass.internal", [127, 64, 0, 2]) {
                    None => assert!(room.short && shortest.is_none()),
                    Some(made) => {
                        shortest.get_or_insert(length);
                        // SAFETY: it was just made.
                        let (name, address, ends) = unsafe {
                            let entry = &*made;
                            assert_eq!((entry.addrtype, entry.length), (c::AF_INET, 4));
                            let ends = [*entry.aliases, *entry.addr_list.add(1)];
                            let address = (*entry.addr_list).cast::<Address>().read();
                            (CStr::from_ptr(entry.name), address, ends)
                        };
                        assert_eq!(name, c"db.underpass.internal");
                        assert_eq!(address, [127, 64, 0, 2]);
                        assert!(ends.iter().all(|end| end.is_null()));
                    }
                }
            }
            let least = parts + 22;
            assert!((least..least + 8).contains(&shortest.unwrap()));
        }
    }
}
