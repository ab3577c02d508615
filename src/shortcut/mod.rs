//! The program that stands under the names `iptables` and `ip6tables` in dockerd's `PATH`, and
//! does what it can be certain of.
//!
//! dockerd asks iptables for every chain and every rule before it makes it, and removes whatever an
//! older dockerd may have left: of the 139 calls of a start of 28.5 in a new network namespace, 100
//! fail, as they must. Each call is a process that loads eight libraries to find out that a chain
//! is not there. This program asks the kernel for that chain by netlink, and where the answer is no,
//! gives it in the words of the real program. A call that fails changes nothing in the nft backend,
//! since it ends before `nft_commit` (iptables/xtables-standalone.c). It also makes chains, and
//! rules of interfaces and a verdict, by the transaction that the real program sends
//! (`nft_ipv4_add` in iptables/nft-ipv4.c); where the kernel refuses one, nothing is changed, and
//! the real program says why. It executes the real one for all else: whatever is to be removed,
//! what exists, what has extensions or addresses, and what it does not know. Of the 139 calls,
//! 18 are left. The tests compare words and rules with those of the real program, to the byte.
//!
//! It is a program of its own ([`PROGRAM`], from [`program.rs`](../../../src/shortcut/program.rs)),
//! without the standard library and the C library: under a hypervisor that traps `cpuid` the start
//! of the C library alone takes longer than the whole answer, 0.28 of 0.40 ms.
//!
//! The files here belong to both, and use nothing but `core`.

pub mod answer;
pub mod arguments;
pub mod netlink;
pub mod place;

/// The program, an ELF file for this processor. Empty for a processor that it is not written for.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/iptables"));

/// The versions of the real programs whose answers this one knows: a test compares them.
pub const KNOWN: [&str; 3] = ["1.8.9", "1.8.11", "1.8.13"];
