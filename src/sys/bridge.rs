//! Bridges, by the ioctls of netdevice(7) and of linux/sockios.h.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCBRADDBR` of linux/sockios.h.
const ADD_BRIDGE: libc::Ioctl = 0x89a0;

/// `SIOCBRDELBR` of linux/sockios.h.
const REMOVE_BRIDGE: libc::Ioctl = 0x89a1;

/// `ETHTOOL_GDRVINFO` of linux/ethtool.h, which every user may ask for.
const DRIVER: u32 = 3;

/// What the kernel tells of the driver of an interface: `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct Driver {
    command: u32,
    name: [u8; 32],
    others: [[u8; 32]; 4],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// A socket that carries the ioctls. The error is that of socket(2).
pub fn control() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Makes a bridge. The error is that of ioctl(2): EEXIST where there is an interface with that
/// name.
pub fn add(control: &OwnedFd, name: &str) -> nix::Result<()> {
    by_name(control, ADD_BRIDGE, name)
}

/// Turns a bridge off and removes it, with its addresses and routes. The error is that of ioctl(2):
/// ENODEV where there is none.
pub fn remove(control: &OwnedFd, name: &str) -> nix::Result<()> {
    set_up(control, name, false)?;
    by_name(control, REMOVE_BRIDGE, name)
}

/// An ioctl that takes nothing but a name.
fn by_name(control: &OwnedFd, number: libc::Ioctl, name: &str) -> nix::Result<()> {
    let request = request(name)?;
    // SAFETY: the kernel reads a name that ends with a NUL, within the array.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), number, request.ifr_name.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Gives an interface its only IPv4 address and the length of its prefix, and turns it on. The
/// error is that of ioctl(2).
pub fn configure(control: &OwnedFd, name: &str, address: Ipv4Addr, prefix: u8) -> nix::Result<()> {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    for (number, value) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, Ipv4Addr::from_bits(mask)),
    ] {
        let mut request = request(name)?;
        let address = libc::sockaddr_in {
            sin_family: libc::sa_family_t::try_from(libc::AF_INET).map_err(|_| Errno::EINVAL)?,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(value.octets()),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: both are plain structures of 16 bytes; sockaddr(3type) is the general form.
        request.ifr_ifru.ifru_addr =
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
        run(control, number, &mut request)?;
    }
    set_up(control, name, true)
}

/// The name of an interface of the socket's network namespace. The error is that of ioctl(2): ENODEV
/// where there is none with this index.
pub fn interface(socket: &OwnedFd, index: u32) -> nix::Result<String> {
    // The kernel replaces the name.
    let mut request = request("lo")?;
    request.ifr_ifru.ifru_ifindex = index.try_into().map_err(|_| Errno::ENODEV)?;
    run(socket, libc::SIOCGIFNAME, &mut request)?;
    let bytes = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8(bytes).map_err(|_| Errno::EILSEQ)
}

/// Whether an interface of the socket's network namespace is a bridge. The error is that of ioctl(2):
/// ENODEV where there is none with this name.
pub fn is_one(socket: &OwnedFd, name: &str) -> nix::Result<bool> {
    let mut driver = Driver {
        command: DRIVER,
        name: [0; 32],
        others: [[0; 32]; 4],
        reserved: [0; 12],
        counts: [0; 5],
    };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut driver).cast();
    match run(socket, libc::SIOCETHTOOL, &mut request) {
        Ok(()) => Ok(driver.name.starts_with(b"bridge\0")),
        // It has no driver to tell of.
        Err(Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Turns an interface on or off. The error is that of ioctl(2).
pub fn set_up(control: &OwnedFd, name: &str, up: bool) -> nix::Result<()> {
    let mut request = request(name)?;
    run(control, libc::SIOCGIFFLAGS, &mut request)?;
    let bit = libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel has just written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
    run(control, libc::SIOCSIFFLAGS, &mut request)
}

fn run(control: &OwnedFd, number: libc::c_ulong, request: &mut libc::ifreq) -> nix::Result<()> {
    let number = libc::Ioctl::try_from(number).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads and writes a structure that lives until the call has returned.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), number, std::ptr::from_mut(request)) };
    Errno::result(result).map(drop)
}

/// A request about this interface, whose other fields are zero.
fn request(name: &str) -> nix::Result<libc::ifreq> {
    // SAFETY: integers, arrays of integers and a null pointer may all be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}
