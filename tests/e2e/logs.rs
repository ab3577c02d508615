//! What is logged, and where nobody listens.

use crate::docker::dind;

/// Where standard error takes nothing, what is said is lost, and no more than that.
#[test]
fn nobody_has_to_listen() {
    let output = dind().prelude("exec 2>/dev/full").run(&[
        "sh",
        "-c",
        "docker version >/dev/null && echo works",
    ]);
    assert_eq!(output.text(), "works");
}
