//! Extended attributes: xattr(7).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::libc;

/// How often a list or a value is read again that grew meanwhile.
const ATTEMPTS: u32 = 8;

/// The names of a file's extended attributes; of a symbolic link's own: llistxattr(2). Empty
/// where the file system has none. Takes the path; the error is that of the system call.
pub fn list(path: &CStr) -> nix::Result<Vec<CString>> {
    let names = read(|buffer| {
        // SAFETY: the path ends with a NUL, and the kernel writes at most the given length.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    });
    match names {
        Ok(names) => Ok(names
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|name| CString::from_vec_with_nul(name.to_vec()).ok())
            .collect()),
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

/// The value of the extended attribute `name`; of a symbolic link's own: lgetxattr(2).
pub fn get(path: &CStr, name: &CStr) -> nix::Result<Vec<u8>> {
    read(|buffer| {
        // SAFETY: path and name end with a NUL, and the kernel writes at most the given length.
        unsafe {
            libc::lgetxattr(
                path.as_ptr(),
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        }
    })
}

/// Sets the extended attribute `name`; of a symbolic link's own: lsetxattr(2).
pub fn set(path: &CStr, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: path and name end with a NUL, and the kernel reads no more than the given length.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Calls `call` with a buffer that has room for what it says. A call with no room returns the
/// length.
fn read(call: impl Fn(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    let length = |result| Errno::result(result).map(|length: isize| length.unsigned_abs());
    for _ in 0..ATTEMPTS {
        let mut buffer = vec![0; length(call(&mut []))?];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match length(call(&mut buffer)) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::ERANGE)
}
