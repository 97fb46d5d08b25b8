//! The system's GSSAPI (RFC 2744), loaded when it is first needed. Calls of a C library: the only
//! unsafe code of this crate.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;

/// MIT's library and Heimdal's, by the names that they have been installed under for many years.
const LIBRARIES: [&str; 4] = [
    "libgssapi_krb5.so.2",
    "libgssapi_krb5.so",
    "libgssapi.so.3",
    "libgssapi.so",
];

type Major = u32;
type Minor = u32;
type Name = *mut c_void;
type ContextHandle = *mut c_void;

/// `gss_OID_desc`, RFC 2744 section 3.2.
#[repr(C)]
struct Oid {
    length: u32,
    elements: *const c_void,
}

/// `gss_buffer_desc`, RFC 2744 section 3.2.
#[repr(C)]
struct Buffer {
    length: usize,
    value: *mut c_void,
}

impl Buffer {
    const EMPTY: Self = Self {
        length: 0,
        value: ptr::null_mut(),
    };

    /// For a call that only reads it.
    fn over(bytes: &[u8]) -> Self {
        Self {
            length: bytes.len(),
            value: bytes.as_ptr().cast_mut().cast(),
        }
    }
}

/// SPNEGO, 1.3.6.1.5.5.2 (RFC 4178).
static SPNEGO: [u8; 6] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// `GSS_C_NT_HOSTBASED_SERVICE`, 1.2.840.113554.1.2.1.4 (RFC 2744 appendix A).
static HOST_BASED: [u8; 10] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x01, 0x04];

/// The upper half of a major status holds errors (RFC 2744 section 3.9.1).
const ERRORS: Major = 0xffff_0000;
/// `GSS_C_GSS_CODE` and `GSS_C_MECH_CODE`.
const GSS_CODE: i32 = 1;
const MECHANISM_CODE: i32 = 2;

type ImportName = unsafe extern "C" fn(*mut Minor, *mut Buffer, *const Oid, *mut Name) -> Major;
type InitSecContext = unsafe extern "C" fn(
    *mut Minor,
    *mut c_void,
    *mut ContextHandle,
    Name,
    *const Oid,
    u32,
    u32,
    *mut c_void,
    *mut Buffer,
    *mut *mut c_void,
    *mut Buffer,
    *mut u32,
    *mut u32,
) -> Major;
type ReleaseBuffer = unsafe extern "C" fn(*mut Minor, *mut Buffer) -> Major;
type ReleaseName = unsafe extern "C" fn(*mut Minor, *mut Name) -> Major;
type DeleteSecContext = unsafe extern "C" fn(*mut Minor, *mut ContextHandle, *mut Buffer) -> Major;
type DisplayStatus =
    unsafe extern "C" fn(*mut Minor, u32, i32, *const Oid, *mut u32, *mut Buffer) -> Major;

/// The functions that are used; the library is never unloaded.
struct Gssapi {
    import_name: ImportName,
    init_sec_context: InitSecContext,
    release_buffer: ReleaseBuffer,
    release_name: ReleaseName,
    delete_sec_context: DeleteSecContext,
    display_status: DisplayStatus,
}

/// The library, if the system has one.
fn gssapi() -> Option<&'static Gssapi> {
    static LOADED: OnceLock<Option<Gssapi>> = OnceLock::new();
    let load = || LIBRARIES.iter().find_map(|name| Gssapi::load(name));
    LOADED.get_or_init(load).as_ref()
}

impl Gssapi {
    fn load(name: &str) -> Option<Self> {
        // SAFETY: these are the system's Kerberos libraries, whose initialisation has no conditions.
        let library = unsafe { Library::new(name) }.ok()?;
        // The functions are called for as long as the program runs.
        let library: &'static Library = Box::leak(Box::new(library));
        /// A function of the library.
        fn symbol<T: Copy>(library: &'static Library, name: &[u8]) -> Option<T> {
            // SAFETY: the type of each function below is that of RFC 2744 section 5.
            unsafe { library.get::<T>(name) }.ok().map(|found| *found)
        }
        Some(Self {
            import_name: symbol(library, b"gss_import_name\0")?,
            init_sec_context: symbol(library, b"gss_init_sec_context\0")?,
            release_buffer: symbol(library, b"gss_release_buffer\0")?,
            release_name: symbol(library, b"gss_release_name\0")?,
            delete_sec_context: symbol(library, b"gss_delete_sec_context\0")?,
            display_status: symbol(library, b"gss_display_status\0")?,
        })
    }

    /// What a status means, in the library's words.
    fn explain(&self, major: Major, minor: Minor) -> String {
        let words = |status: u32, kind: i32| {
            let (mut ignored, mut more) = (0, 0);
            let mut text = Buffer::EMPTY;
            // SAFETY: all pointers are to locals that outlive the call; no OID means the default.
            let shown = unsafe {
                (self.display_status)(
                    &mut ignored,
                    status,
                    kind,
                    ptr::null(),
                    &mut more,
                    &mut text,
                )
            };
            let bytes = self.take(&mut text);
            let said = shown & ERRORS == 0 && !bytes.is_empty();
            said.then(|| String::from_utf8_lossy(&bytes).into_owned())
        };
        let general = words(major, GSS_CODE);
        let particular = words(minor, MECHANISM_CODE).filter(|_| minor != 0);
        particular
            .or(general)
            .unwrap_or_else(|| format!("GSSAPI error {major:#x}"))
    }

    /// The bytes of a buffer that the library allocated, which is given back.
    fn take(&self, buffer: &mut Buffer) -> Vec<u8> {
        if buffer.value.is_null() {
            return Vec::new();
        }
        // SAFETY: the library says that so many bytes lie there, until they are released below.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.value.cast::<u8>(), buffer.length) };
        let copy = bytes.to_vec();
        let mut minor = 0;
        // SAFETY: the buffer came from the library and is released once; it is empty afterwards.
        unsafe { (self.release_buffer)(&mut minor, buffer) };
        copy
    }
}

/// A security context that is being made.
pub(super) struct Context {
    library: &'static Gssapi,
    handle: ContextHandle,
    name: Name,
}

// SAFETY: the library allows a context to be used by any thread, one at a time (it locks what is
// shared); `&mut self` sees to the latter.
unsafe impl Send for Context {}

// SAFETY: nothing is done through a shared reference.
unsafe impl Sync for Context {}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// For the service `HTTP` on `host` (RFC 4559 section 4).
    pub(super) fn new(host: &str) -> Result<Self, String> {
        let library = gssapi().ok_or("there is no GSSAPI library on this system")?;
        let service = format!("HTTP@{host}");
        let mut text = Buffer::over(service.as_bytes());
        let kind = Oid {
            length: 10,
            elements: HOST_BASED.as_ptr().cast(),
        };
        let (mut minor, mut name) = (0, ptr::null_mut());
        // SAFETY: the library reads the text and the OID during the call only, and writes the others.
        let major = unsafe { (library.import_name)(&mut minor, &mut text, &kind, &mut name) };
        if major & ERRORS != 0 {
            return Err(library.explain(major, minor));
        }
        Ok(Self {
            library,
            handle: ptr::null_mut(),
            name,
        })
    }

    /// The next token; `answer` is empty for the first.
    pub(super) fn step(&mut self, answer: &[u8]) -> Result<Vec<u8>, String> {
        let mechanism = Oid {
            length: 6,
            elements: SPNEGO.as_ptr().cast(),
        };
        let mut input = Buffer::over(answer);
        let input = match answer.is_empty() {
            true => ptr::null_mut(),
            false => &raw mut input,
        };
        let (mut minor, mut output) = (0, Buffer::EMPTY);
        // SAFETY: handle and name are ours and live; no credential, no flags, no bindings and the default
        // lifetime are what null and 0 mean (RFC 2744 section 5.19); the rest are locals.
        let major = unsafe {
            (self.library.init_sec_context)(
                &mut minor,
                ptr::null_mut(),
                &mut self.handle,
                self.name,
                &mechanism,
                0,
                0,
                ptr::null_mut(),
                input,
                ptr::null_mut(),
                &mut output,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        let token = self.library.take(&mut output);
        if major & ERRORS != 0 {
            return Err(self.library.explain(major, minor));
        }
        if token.is_empty() {
            return Err("the proxy goes on asking after the exchange was complete".to_owned());
        }
        Ok(token)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let mut minor = 0;
        if !self.handle.is_null() {
            // SAFETY: the handle came from the library and is given back once; no token is wanted.
            unsafe {
                (self.library.delete_sec_context)(&mut minor, &mut self.handle, ptr::null_mut())
            };
        }
        // SAFETY: the name came from the library and is given back once.
        unsafe { (self.library.release_name)(&mut minor, &mut self.name) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With whatever this machine has: a library or none, and no ticket for such a host.
    #[test]
    fn without_a_ticket_there_is_a_reason_and_no_crash() {
        let reason = match Context::new("nobody.invalid") {
            Ok(mut context) => context.step(&[]).expect_err("nobody has a ticket for this"),
            Err(reason) => reason,
        };
        assert!(!reason.is_empty());
    }
}
