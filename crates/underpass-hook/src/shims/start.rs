//! Starting programs. One that is started with an emptied environment stays hooked.
//!
//! The functions that take any number of arguments (`execl` and its like) pass the environment of the process on, where
//! both variables are unless it took them out itself.

use crate::c::{self, c_char, c_int, c_void};
use crate::exchange::Variable;
use crate::next::pass;
use crate::variables;

/// The most entries of an environment to which two can be added, on the stack.
const MOST: usize = 1024;

type Environment = *const *const c_char;

/// The entries of an environment; `None` where there are too many.
///
/// # Safety
/// `environment` is null, or ends with a null pointer, and all else in it ends with a zero.
unsafe fn entries<'a>(environment: Environment) -> Option<(&'a [*const c_char], bool)> {
    if environment.is_null() {
        return Some((&[], true));
    }
    // SAFETY: the caller promises it.
    unsafe {
        let count = (0..MOST - 2).find(|place| (*environment.add(*place)).is_null())?;
        let all = core::slice::from_raw_parts(environment, count);
        let emptied = variables::emptied(all.iter().map(|entry| c::bytes(*entry)));
        Some((all, emptied))
    }
}

/// Calls `start` with the environment that the new program gets.
///
/// # Safety
/// As [`entries`].
unsafe fn with_hook<T>(environment: Environment, start: impl FnOnce(Environment) -> T) -> T {
    // SAFETY: the caller promises it.
    match unsafe { entries(environment) } {
        Some((all, true)) => with_both(environment, all, start),
        _ => start(environment),
    }
}

/// The same where both variables are to be put back. Takes much of the stack, of which a process that shares its parent's
/// memory may have little.
#[inline(never)]
fn with_both<T>(
    environment: Environment,
    all: &[*const c_char],
    start: impl FnOnce(Environment) -> T,
) -> T {
    let found = Variable::find(c"LD_PRELOAD").zip(Variable::find(c"UNDERPASS_HOOK"));
    let Some((mut library, mut way)) = found else {
        return start(environment);
    };
    let mut whole = [core::ptr::null(); MOST];
    whole[..all.len()].copy_from_slice(all);
    whole[all.len()] = library.entry().as_ptr().cast();
    whole[all.len() + 1] = way.entry().as_ptr().cast();
    start(whole.as_ptr())
}

fn fail() -> c_int {
    c::set_errno(c::ENOSYS);
    -1
}

/// The environment of this process.
fn own() -> Environment {
    // SAFETY: only those who change it without care for other threads could make this wrong, and they already did so to
    // getenv(3).
    unsafe { c::environ }
}

/// execve(2)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn execve(
    path: *const c_char,
    arguments: Environment,
    environment: Environment,
) -> c_int {
    let start = |environment| {
        pass!(c"execve": (*const c_char, Environment, Environment) -> c_int,
            (path, arguments, environment) else fail())
    };
    // SAFETY: as execve(2) demands it.
    unsafe { with_hook(environment, start) }
}

/// execv(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn execv(path: *const c_char, arguments: Environment) -> c_int {
    // SAFETY: as execv(3) demands it.
    unsafe { execve(path, arguments, own()) }
}

/// execvpe(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn execvpe(
    file: *const c_char,
    arguments: Environment,
    environment: Environment,
) -> c_int {
    let start = |environment| {
        pass!(c"execvpe": (*const c_char, Environment, Environment) -> c_int,
            (file, arguments, environment) else fail())
    };
    // SAFETY: as execvpe(3) demands it.
    unsafe { with_hook(environment, start) }
}

/// execvp(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn execvp(file: *const c_char, arguments: Environment) -> c_int {
    // SAFETY: as execvp(3) demands it.
    unsafe { execvpe(file, arguments, own()) }
}

/// fexecve(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn fexecve(
    fd: c_int,
    arguments: Environment,
    environment: Environment,
) -> c_int {
    let start = |environment| {
        pass!(c"fexecve": (c_int, Environment, Environment) -> c_int,
            (fd, arguments, environment) else fail())
    };
    // SAFETY: as fexecve(3) demands it.
    unsafe { with_hook(environment, start) }
}

/// posix_spawn(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn posix_spawn(
    process: *mut c_int,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Environment,
    environment: Environment,
) -> c_int {
    let start = |environment| {
        pass!(c"posix_spawn":
            (*mut c_int, *const c_char, *const c_void, *const c_void, Environment, Environment) -> c_int,
            (process, path, actions, attributes, arguments, environment) else c::ENOSYS)
    };
    // SAFETY: as posix_spawn(3) demands it.
    unsafe { with_hook(environment, start) }
}

/// posix_spawnp(3)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn posix_spawnp(
    process: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Environment,
    environment: Environment,
) -> c_int {
    let start = |environment| {
        pass!(c"posix_spawnp":
            (*mut c_int, *const c_char, *const c_void, *const c_void, Environment, Environment) -> c_int,
            (process, file, actions, attributes, arguments, environment) else c::ENOSYS)
    };
    // SAFETY: as posix_spawnp(3) demands it.
    unsafe { with_hook(environment, start) }
}
