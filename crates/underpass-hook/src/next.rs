//! The function that would have been called without us.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::c::{self, CStr, c_void};

/// The next function of a name in the order in which libraries are searched, found on first use. Two threads that come at
/// once find the same one.
pub(crate) struct Next<F> {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
    signature: PhantomData<F>,
}

impl<F: Copy> Next<F> {
    /// # Safety
    /// `F` is a function pointer with the signature that the C library gives `name`.
    pub(crate) const unsafe fn new(name: &'static CStr) -> Self {
        Self {
            name,
            at: AtomicPtr::new(ptr::null_mut()),
            signature: PhantomData,
        }
    }

    /// `None` where this C library has no such function.
    pub(crate) fn get(&self) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let mut at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            // SAFETY: the name ends with a zero.
            at = unsafe { c::dlsym(c::RTLD_NEXT, self.name.as_ptr()) };
            self.at.store(at, Ordering::Relaxed);
        }
        if at.is_null() {
            return None;
        }
        // SAFETY: `at` is the function of this name, and `new` was promised that `F` is a pointer to it.
        Some(unsafe { core::mem::transmute_copy(&at) })
    }
}

/// Calls the function that would have been called without us; where the C library has none, the result is `$missing`.
macro_rules! pass {
    ($name:literal: ($($type:ty),*) -> $result:ty, ($($value:expr),*) else $missing:expr) => {{
        static NEXT: $crate::next::Next<unsafe extern "C" fn($($type),*) -> $result> = {
            // SAFETY: the signature is that of the manual page, which is also that of the function that calls this.
            unsafe { $crate::next::Next::new($name) }
        };
        match NEXT.get() {
            // SAFETY: the caller of our function kept to the contract of the same function in the C library; what is
            // given in place of the caller's values is as valid as those.
            Some(next) => unsafe { next($($value),*) },
            None => $missing,
        }
    }};
}
pub(crate) use pass;
