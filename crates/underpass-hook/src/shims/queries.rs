//! Questions to DNS past the usual lookups. A name of ours is not known there, and is not told to it.

use crate::c::{self, c_char, c_int, c_void};
use crate::exchange::Redirector;
use crate::name;
use crate::next::pass;

/// A text that ends with a zero.
type Text = *const c_char;
/// `res_state`, whatever is in it.
type State = *mut c_void;

/// Whether the name, or the two of which it is made, is ours in a hooked process.
///
/// # Safety
/// Each is null or ends with a zero.
unsafe fn is_ours(names: &[*const c_char]) -> bool {
    let Some(redirector) = Redirector::find() else {
        return false;
    };
    names.iter().any(|name| {
        // SAFETY: the caller promises it.
        let name = unsafe { name.as_ref().map(|name| c::bytes(name)) };
        name.is_some_and(|name| name::pseudo(name, redirector.suffix()).is_some())
    })
}

fn no_such_name() -> c_int {
    c::set_h_errno(c::HOST_NOT_FOUND);
    -1
}

/// A function of resolver(3) under the names that it has: older programs of glibc know it with underscores.
macro_rules! query {
    ($($name:ident $symbol:literal),*: $arguments:tt, names $of:tt) => {
        $( query!(@one $name $symbol: $arguments, $of); )*
    };
    (@one $name:ident $symbol:literal: ($($argument:ident: $type:ty),*), ($($of:ident),*)) => {
        /// resolver(3)
        #[cfg_attr(preload, unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: as resolver(3) demands it.
            if unsafe { is_ours(&[$($of),*]) } {
                return no_such_name();
            }
            pass!($symbol: ($($type),*) -> c_int, ($($argument),*) else no_such_name())
        }
    };
}

query!(res_query c"res_query", __res_query c"__res_query":
    (name: Text, class: c_int, kind: c_int, answer: *mut u8, length: c_int), names (name));
query!(res_search c"res_search", __res_search c"__res_search":
    (name: Text, class: c_int, kind: c_int, answer: *mut u8, length: c_int), names (name));
query!(res_querydomain c"res_querydomain", __res_querydomain c"__res_querydomain":
    (name: Text, domain: Text, class: c_int, kind: c_int, answer: *mut u8, length: c_int), names (name, domain));
query!(res_nquery c"res_nquery", __res_nquery c"__res_nquery":
    (state: State, name: Text, class: c_int, kind: c_int, answer: *mut u8, length: c_int), names (name));
query!(res_nsearch c"res_nsearch", __res_nsearch c"__res_nsearch":
    (state: State, name: Text, class: c_int, kind: c_int, answer: *mut u8, length: c_int), names (name));
query!(res_nquerydomain c"res_nquerydomain", __res_nquerydomain c"__res_nquerydomain":
    (state: State, name: Text, domain: Text, class: c_int, kind: c_int, answer: *mut u8, length: c_int),
    names (name, domain));
