//! The program itself: system calls, and nothing that allocates. `build.rs` compiles it, and
//! [`PROGRAM`](super::PROGRAM) has it.
//!
//! It is the root of a crate of its own. So it has here what is unsafe in it, and what a library
//! would bring: the entry point, the system calls, and the four functions of memory that the
//! compiler wants to call.

#![no_std]
#![no_main]
// Or the compiler would make calls of the functions of memory below of their own loops.
#![no_builtins]

mod answer;
mod arguments;
mod netlink;
mod place;

use core::arch::{asm, global_asm};

use answer::{Answer, Extension, Kernel, No};
use arguments::{Family, Rule, Table};
use netlink::{Message, Request, Verdict};

// The kernel starts a program with the stack pointer at the number of arguments: System V ABI,
// Process Initialization. x86_64 wants the stack to be aligned to 16 bytes before a call.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {main}",
    "brk #1",
    main = sym main,
);

/// A call has at most this many arguments, or is the real program's.
const MOST_ARGUMENTS: usize = 32;

/// # Safety
///
/// `stack` is the stack as the kernel made it.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the number of arguments, their addresses and a zero, and those of the environment and
    // a zero, in this order.
    let (count, argv) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    // SAFETY: as above.
    let environment = unsafe { argv.add(count + 1) };
    let mut words: [&[u8]; MOST_ARGUMENTS] = [&[]; MOST_ARGUMENTS];
    for (place, word) in words.iter_mut().take(count).enumerate() {
        // SAFETY: `place` is below the number of arguments, and each ends with a zero.
        *word = unsafe { text(*argv.add(place)) };
    }
    let name = words.first().copied().unwrap_or_default();
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let family = match name {
        b"ip6tables" => Family::Ipv6,
        _ => Family::Ipv4,
    };
    if let Some(arguments) = words.get(1..count)
        && name == family_name(family)
    {
        let _ = answer_by_netlink(family, arguments);
    }
    // What the kernel was asked for above is closed: the socket closes on exec.
    let real = path(match family {
        Family::Ipv4 => place::REAL_IPTABLES,
        Family::Ipv6 => place::REAL_IP6TABLES,
    });
    let arguments = [real.as_ptr().addr(), argv.addr(), environment.addr()];
    call(number::EXECVE, &arguments);
    let mut said = Said::new();
    let _ = said.add(&[
        name,
        b": cannot execute ",
        text_of(&real),
        b": restart the container, or set DIND_IPTABLES_SHORTCUT=off\n",
    ]);
    said.exit(127)
}

/// Ends the process if the answer is certain.
fn answer_by_netlink(family: Family, arguments: &[&[u8]]) -> Option<()> {
    let question = arguments::question(family, arguments.iter().copied())?;
    let mut version = [0; 16];
    let version = version_of_the_real_one(&mut version)?;
    let mut kernel = Netlink::open(family)?;
    let answer = answer::answer(&question, &mut kernel)?;
    let mut said = Said::new();
    let Answer::No(no) = answer else {
        said.exit(0);
    };
    let name = family_name(family);
    let status = match no {
        // In 1.8.9 a chain that does not exist is no compatible one (`nft_is_table_compatible`).
        No::Listed(table, chain) if version == b"1.8.9" => {
            said.add(&[
                name,
                b" v",
                version,
                b" (nf_tables): chain `",
                chain,
                b"' in table `",
            ])?;
            said.add(&[table.name(), b"' is incompatible, use 'nft' tool.\n"])?;
            1
        }
        No::Chain | No::Listed(..) => {
            said.add(&[name, b": No chain/target/match by that name.\n"])?;
            1
        }
        No::Rule => {
            said.add(&[
                name,
                b": Bad rule (does a matching rule exist in that chain?).\n",
            ])?;
            1
        }
        No::Target(chain) => {
            said.add(&[name, b" v", version, b" (nf_tables): Chain '", chain])?;
            said.add(&[b"' does not exist\nTry `", name, b" -h' or '", name])?;
            said.add(&[b" --help' for more information.\n"])?;
            2
        }
    };
    said.exit(status)
}

fn family_name(family: Family) -> &'static [u8] {
    match family {
        Family::Ipv4 => b"iptables",
        Family::Ipv6 => b"ip6tables",
    }
}

fn version_of_the_real_one(buffer: &mut [u8; 16]) -> Option<&[u8]> {
    let path = path(place::VERSION);
    let arguments = [
        AT_FDCWD,
        path.as_ptr().addr(),
        buffer.as_mut_ptr().addr(),
        buffer.len(),
    ];
    let length = call(number::READLINKAT, &arguments);
    buffer.get(..usize::try_from(length).ok()?)
}

/// nf_tables of this network namespace.
struct Netlink {
    family: Family,
    socket: usize,
}

/// The kernel's messages are at most as long, as long as nobody reads with a larger buffer
/// (`netlink_dump` in net/netlink/af_netlink.c).
const LONGEST_ANSWER: usize = 8192;

impl Netlink {
    fn open(family: Family) -> Option<Self> {
        const AF_NETLINK: usize = 16;
        const SOCK_RAW: usize = 3;
        const SOCK_CLOEXEC: usize = 0o2_000_000;
        const NETLINK_NETFILTER: usize = 12;
        let arguments = [AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER];
        let socket = usize::try_from(call(number::SOCKET, &arguments)).ok()?;
        Some(Self { family, socket })
    }

    fn family(&self) -> u8 {
        // NFPROTO_IPV4 and NFPROTO_IPV6 in linux/netfilter.h.
        match self.family {
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        }
    }

    /// The kernel has made its answer, or the first part of it, when the call returns.
    fn send(&self, request: &Request) -> Option<()> {
        let bytes = request.bytes();
        let arguments = [self.socket, bytes.as_ptr().addr(), bytes.len(), 0, 0, 0];
        let sent = call(number::SENDTO, &arguments);
        (usize::try_from(sent).ok()? == bytes.len()).then_some(())
    }

    fn receive<'a>(&self, buffer: &'a mut [u8; LONGEST_ANSWER]) -> Option<&'a [u8]> {
        const MSG_DONTWAIT: usize = 0x40;
        const MSG_TRUNC: usize = 0x20;
        let arguments = [
            self.socket,
            buffer.as_mut_ptr().addr(),
            buffer.len(),
            MSG_DONTWAIT | MSG_TRUNC,
            0,
            0,
        ];
        let received = call(number::RECVFROM, &arguments);
        buffer.get(..usize::try_from(received).ok()?)
    }

    /// Whether what the request asks for exists: the kernel answers with a message of type `kind`.
    fn exists(&self, request: Option<Request>, kind: u16, absent: &[i32]) -> Option<bool> {
        self.send(&request?)?;
        let mut buffer = [0; LONGEST_ANSWER];
        let (message, _) = Message::first(self.receive(&mut buffer)?)?;
        match message.kind {
            netlink::ERROR => absent.contains(&message.error()?).then_some(false),
            found => (found == kind).then_some(true),
        }
    }
}

impl Netlink {
    /// Whether the kernel has carried out the transaction: error number 0 is its acknowledgement.
    fn done(&self, request: Option<Request>) -> Option<()> {
        self.send(&request?)?;
        let mut buffer = [0; LONGEST_ANSWER];
        let (message, _) = Message::first(self.receive(&mut buffer)?)?;
        (message.kind == netlink::ERROR && message.error()? == 0).then_some(())
    }
}

impl Kernel for Netlink {
    fn is_plain(&mut self, table: Table, chain: &[u8]) -> Option<bool> {
        self.send(&Request::chain(self.family(), table.name(), chain)?)?;
        let mut buffer = [0; LONGEST_ANSWER];
        let (message, _) = Message::first(self.receive(&mut buffer)?)?;
        match message.kind {
            netlink::NEW_CHAIN => message.is_plain_chain(),
            _ => None,
        }
    }

    fn make_chain(&mut self, table: Table, chain: &[u8]) -> Option<()> {
        self.done(Request::new_chain(self.family(), table.name(), chain))
    }

    fn make_rule(&mut self, table: Table, chain: &[u8], rule: &Rule<'_>, last: bool) -> Option<()> {
        self.done(Request::new_rule(
            self.family(),
            table.name(),
            chain,
            rule,
            last,
        ))
    }

    fn has_chain(&mut self, table: Table, chain: &[u8]) -> Option<bool> {
        const ENOENT: i32 = 2;
        let request = Request::chain(self.family(), table.name(), chain);
        self.exists(request, netlink::NEW_CHAIN, &[ENOENT])
    }

    fn has_extension(&mut self, extension: Extension) -> Option<bool> {
        let (name, revision, is_target): (&[u8], u32, bool) = match extension {
            Extension::Addrtype => (b"addrtype", 1, false),
            Extension::Conntrack => (b"conntrack", 3, false),
            Extension::Masquerade => (b"MASQUERADE", 0, true),
        };
        let request = Request::extension(self.family(), name, revision, is_target);
        self.exists(request, netlink::EXTENSION, &[])
    }

    fn all_rules(
        &mut self,
        table: Table,
        chain: &[u8],
        holds: &dyn Fn(Verdict<'_>) -> bool,
    ) -> Option<bool> {
        self.send(&Request::rules(self.family(), table.name(), chain)?)?;
        let mut buffer = [0; LONGEST_ANSWER];
        loop {
            let mut rest = self.receive(&mut buffer)?;
            while !rest.is_empty() {
                let (message, after) = Message::first(rest)?;
                rest = after;
                match message.kind {
                    _ if message.interrupted => return None,
                    netlink::DONE => return Some(true),
                    netlink::NEW_RULE => {}
                    _ => return None,
                }
                let verdict = message.verdict(table.name(), chain);
                if verdict.is_some_and(|verdict| !holds(verdict)) {
                    return Some(false);
                }
            }
        }
    }

    fn has_legacy_tables(&mut self) -> Option<bool> {
        const O_CLOEXEC: usize = 0o2_000_000;
        const ENOENT: isize = -2;
        let path: &[u8] = match self.family {
            Family::Ipv4 => b"/proc/net/ip_tables_names\0",
            Family::Ipv6 => b"/proc/net/ip6_tables_names\0",
        };
        let opened = call(
            number::OPENAT,
            &[AT_FDCWD, path.as_ptr().addr(), O_CLOEXEC, 0],
        );
        // The module is not loaded.
        if opened == ENOENT {
            return Some(false);
        }
        let file = usize::try_from(opened).ok()?;
        let mut byte = [0_u8; 1];
        match call(number::READ, &[file, byte.as_mut_ptr().addr(), 1]) {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// What is said, in one piece.
struct Said {
    bytes: [u8; 256],
    length: usize,
}

impl Said {
    fn new() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }

    fn add(&mut self, parts: &[&[u8]]) -> Option<()> {
        for part in parts {
            let end = self.length + part.len();
            self.bytes.get_mut(self.length..end)?.copy_from_slice(part);
            self.length = end;
        }
        Some(())
    }

    /// Says it on standard error, and ends. As with the real program, nobody has to listen.
    fn exit(&self, status: usize) -> ! {
        if self.length > 0 {
            call(number::WRITE, &[2, self.bytes.as_ptr().addr(), self.length]);
        }
        loop {
            call(number::EXIT_GROUP, &[status]);
        }
    }
}

/// The path of a file beside this program, with a zero at its end.
fn path(name: &str) -> [u8; 64] {
    let mut path = [0; 64];
    let parts = place::DIRECTORY.bytes().chain([b'/']).chain(name.bytes());
    for (to, byte) in path.iter_mut().zip(parts) {
        *to = byte;
    }
    path
}

fn text_of(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// # Safety
///
/// `start` leads to bytes that end with a zero and are never written to.
unsafe fn text(start: *const u8) -> &'static [u8] {
    let mut length = 0;
    // SAFETY: no byte behind the zero is read.
    while unsafe { *start.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: as above.
    unsafe { core::slice::from_raw_parts(start, length) }
}

const AT_FDCWD: usize = -100_isize as usize;

/// asm/unistd_64.h.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const SOCKET: usize = 41;
    pub const SENDTO: usize = 44;
    pub const RECVFROM: usize = 45;
    pub const EXECVE: usize = 59;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const READLINKAT: usize = 267;
}

/// asm-generic/unistd.h.
#[cfg(target_arch = "aarch64")]
mod number {
    pub const OPENAT: usize = 56;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const READLINKAT: usize = 78;
    pub const EXIT_GROUP: usize = 94;
    pub const SOCKET: usize = 198;
    pub const SENDTO: usize = 206;
    pub const RECVFROM: usize = 207;
    pub const EXECVE: usize = 221;
}

/// A system call, with what it returns: syscall(2). Every pointer that is given here leads to
/// memory of this program that is as long as the call wants it.
fn call(number: usize, arguments: &[usize]) -> isize {
    let argument = |place| arguments.get(place).copied().unwrap_or_default();
    let result: isize;
    // SAFETY: the registers are those of syscall(2), and the calls made here change no memory but
    // the buffers that are given to them.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") argument(0),
            in("rsi") argument(1),
            in("rdx") argument(2),
            in("r10") argument(3),
            in("r8") argument(4),
            in("r9") argument(5),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") argument(0) => result,
            in("x1") argument(1),
            in("x2") argument(2),
            in("x3") argument(3),
            in("x4") argument(4),
            in("x5") argument(5),
            options(nostack),
        );
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    Said::new().exit(127)
}

/// memcpy(3).
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for place in 0..length {
        // SAFETY: the caller's.
        unsafe { *to.add(place) = *from.add(place) };
    }
    to
}

/// memmove(3).
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if to.addr() <= from.addr() {
        // SAFETY: the caller's; what is read is not yet written.
        return unsafe { memcpy(to, from, length) };
    }
    for place in (0..length).rev() {
        // SAFETY: the caller's.
        unsafe { *to.add(place) = *from.add(place) };
    }
    to
}

/// memset(3).
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    for place in 0..length {
        // SAFETY: the caller's.
        unsafe { *to.add(place) = byte.to_le_bytes()[0] };
    }
    to
}

/// memcmp(3).
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for place in 0..length {
        // SAFETY: the caller's.
        let (one, other) = unsafe { (*one.add(place), *other.add(place)) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// bcmp(3).
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(one, other, length) }
}
