//! Compiles the program that stands under the names `iptables` and `ip6tables`: see
//! `src/shortcut/mod.rs`. It is a crate of one file and its modules, and the same compiler makes
//! it, with nothing but `core`.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script is no PID 1: cargo speaks to it by the environment, and it runs the compiler"
)]

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What it is written for: it makes system calls itself.
const PROCESSORS: [&str; 2] = ["x86_64", "aarch64"];

/// A static program without the start files and without the C library.
const OPTIONS: [&str; 12] = [
    "opt-level=s",
    "codegen-units=1",
    "panic=abort",
    "force-unwind-tables=no",
    "strip=symbols",
    "relocation-model=static",
    "target-feature=+crt-static",
    "link-arg=-nostartfiles",
    "link-arg=-nostdlib",
    "link-arg=-static",
    "link-arg=-Wl,--build-id=none",
    // core's own code is compiled to unwind, which nothing here does.
    "link-arg=-Wl,--defsym=rust_eh_personality=0",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/shortcut");
    let program = Path::new(&env::var("OUT_DIR")?).join("iptables");
    if !PROCESSORS.contains(&env::var("CARGO_CFG_TARGET_ARCH")?.as_str()) {
        return Ok(fs::write(&program, [])?);
    }
    let mut compiler = Command::new(env::var("RUSTC")?);
    compiler.args([
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=iptables",
    ]);
    compiler.args(["--target", &env::var("TARGET")?]);
    for option in OPTIONS {
        compiler.args(["-C", option]);
    }
    // rustc brings the start files of musl with it, as it does not for glibc.
    if env::var("CARGO_CFG_TARGET_ENV")? == "musl" {
        compiler.args(["-C", "link-self-contained=no"]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.args(["-C", &format!("linker={linker}")]);
    }
    compiler.arg("-o").arg(&program);
    let status = compiler.arg("src/shortcut/program.rs").status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("src/shortcut/program.rs: {status}").into()),
    }
}
