//! Requests to the kernel and its answers: netlink(7).
//!
//! Nothing waits: the kernel carries a request out and queues the answer before sendto(2) returns.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// `NLM_F_EXCL` and `NLM_F_CREATE`: what is to be made must not be there.
pub const NEW: u16 = 0x200 | 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLMSG_ERROR`: also the acknowledgement, with the error 0.
const ERROR: u16 = 2;

/// The length of struct nlmsghdr.
const HEADER: usize = 16;

/// One message or several in a row.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
}

impl Messages {
    /// Appends a message of the type `kind`, whose content `fill` writes. `flags` are those beside
    /// request and acknowledgement.
    pub fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Self)) {
        self.begin(kind, flags | REQUEST | ACKNOWLEDGE, fill);
    }

    /// Appends a message that is not acknowledged.
    pub fn mark(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.begin(kind, REQUEST, fill);
    }

    fn begin(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        // The length comes at the end.
        self.put(&[0; 4]);
        self.put(&kind.to_ne_bytes());
        self.put(&flags.to_ne_bytes());
        // Sequence number and port.
        self.put(&[0; 8]);
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.set(start, &length.to_ne_bytes());
    }

    /// Appends plain bytes: a structure that comes before the attributes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends an attribute: struct nlattr.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.enclosed(kind, |message| message.put(value));
    }

    /// Appends an attribute that is a string.
    pub fn string(&mut self, kind: u16, value: &str) {
        self.enclosed(kind, |message| {
            message.put(value.as_bytes());
            message.put(&[0]);
        });
    }

    /// Appends an attribute that has others in it.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.enclosed(kind | NESTED, fill);
    }

    /// Appends an attribute whose content `fill` writes.
    pub fn enclosed(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(&[0; 2]);
        self.put(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.set(start, &length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn set(&mut self, start: usize, bytes: &[u8]) {
        let places = self.bytes.iter_mut().skip(start);
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
    }
}

/// Opens a socket for requests. The error is that of socket(2).
pub fn open(protocol: SockProtocol) -> nix::Result<OwnedFd> {
    socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        protocol,
    )
}

/// Sends messages. The error is the first one that the kernel answers with.
pub fn ask(socket: &OwnedFd, messages: &Messages) -> nix::Result<()> {
    send(socket, messages)?;
    let mut first = Ok(());
    let mut answer = [0; 8192];
    loop {
        let length = match socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN) => return first,
            Err(errno) => return Err(errno),
        };
        if let Some(errno) = answer.get(..length).and_then(error) {
            first = first.and(Err(errno));
        }
    }
}

/// Sends messages, and gives the type of the first answer: struct nlmsghdr.
pub fn ask_kind(socket: &OwnedFd, messages: &Messages) -> nix::Result<u16> {
    send(socket, messages)?;
    let mut answer = [0_u8; 256];
    socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let [_, _, _, _, low, high, ..] = answer;
    Ok(u16::from_ne_bytes([low, high]))
}

fn send(socket: &OwnedFd, messages: &Messages) -> nix::Result<()> {
    let kernel = NetlinkAddr::new(0, 0);
    let (socket, none) = (socket.as_raw_fd(), MsgFlags::empty());
    socket::sendto(socket, &messages.bytes, &kernel, none).map(drop)
}

/// The error in an answer, if it is one: struct nlmsgerr.
fn error(answer: &[u8]) -> Option<Errno> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let number = i32::from_ne_bytes(*answer.get(HEADER..)?.first_chunk()?);
    (kind == ERROR && number != 0).then(|| Errno::from_raw(number.wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_have_their_lengths_and_attributes_are_padded() {
        let mut messages = Messages::default();
        messages.mark(16, |message| message.put(&[1, 2, 3, 4]));
        messages.message(20, NEW, |message| {
            message.nested(3, |inner| inner.string(1, "ab"));
        });
        let expected: Vec<u8> = [
            &20_u32.to_ne_bytes()[..],
            &16_u16.to_ne_bytes(),
            &REQUEST.to_ne_bytes(),
            &[0; 8],
            &[1, 2, 3, 4],
            &28_u32.to_ne_bytes(),
            &20_u16.to_ne_bytes(),
            &(NEW | REQUEST | ACKNOWLEDGE).to_ne_bytes(),
            &[0; 8],
            &12_u16.to_ne_bytes(),
            &(3 | NESTED).to_ne_bytes(),
            &7_u16.to_ne_bytes(),
            &1_u16.to_ne_bytes(),
            b"ab\0\0",
        ]
        .concat();
        assert_eq!(messages.bytes, expected);
    }

    #[test]
    fn an_answer_is_an_error_or_none() {
        let answer = |kind: u16, number: i32| {
            let mut bytes = vec![0; HEADER];
            bytes.splice(4..6, kind.to_ne_bytes());
            bytes.extend(number.to_ne_bytes());
            error(&bytes)
        };
        assert_eq!(answer(ERROR, -17), Some(Errno::EEXIST));
        assert_eq!(answer(ERROR, 0), None);
        assert_eq!(answer(16, -17), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = error(&bytes);
        }
    }
}
