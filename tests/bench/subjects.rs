//! The benchmarks of `tests/lab bench`, one file a subject. `harness.rs` starts containers and
//! reads their clocks.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is no PID 1: it runs docker, reads its environment and may wait"
)]

mod cold;
mod crowd;
mod deep;
mod docker;
mod flow;
mod harness;
mod images;
mod lab;
mod peer;
mod rootless;
mod scale;
mod store;
mod store_file;
mod timeline;

use std::process::ExitCode;

use docker::Result;

/// Measures in the suite's image, and prints a table.
type Bench = fn(&str) -> Result<()>;

/// By the option of `tests/lab bench`.
const SUBJECTS: &[(&str, Bench)] = &[
    ("--figures", lab::bench),
    ("--deep", |_| deep::bench()),
    ("--peer", |_| peer::bench()),
    ("--timeline", timeline::bench),
    ("--cold", cold::bench),
    ("--images", images::bench),
    ("--scale", scale::bench),
    ("--store", store::bench),
    ("--crowd", crowd::bench),
    ("--store-file", store_file::bench),
    ("--rootless", |_| rootless::bench()),
];

/// What this program is in containers, and its argument: the address of the server.
const FLOW: &[(&str, Bench)] = &[
    ("flow-serve", |_| flow::serve()),
    ("flow-out", |server| flow::measure("out", server)),
    ("flow-in", |server| flow::measure("in", server)),
];

fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own, and `cargo test --benches` runs this without any.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let [subject, suite] = words.as_slice() else {
        eprintln!("bench: not a subject and a suite: run it by 'tests/lab bench'");
        return ExitCode::SUCCESS;
    };
    let mut all = SUBJECTS.iter().chain(FLOW);
    let Some((_, run)) = all.find(|(name, _)| name == subject) else {
        eprintln!("bench: {subject}: no such subject; 'tests/lab help' lists them");
        return ExitCode::FAILURE;
    };
    match run(suite) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench: {error}");
            ExitCode::FAILURE
        }
    }
}
