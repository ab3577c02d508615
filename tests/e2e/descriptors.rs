//! Descriptors that were open when dind was started.

use crate::docker::dind;

/// 1,000 inherited descriptors, most of them above the limit, reach neither PID 1
/// nor a daemon nor the command.
#[test]
fn a_thousand_inherited_descriptors_are_closed() {
    let output = dind()
        .flags(["--ulimit", "nofile=8192:8192"])
        .prelude(
            r#"
            touch /inherited
            for number in {1..1000}; do
                exec {descriptor}</inherited
            done
            ulimit -Sn 256
            echo "open: $(find /proc/$$/fd -lname /inherited | wc -l)"
            "#,
        )
        .run(&[
            "sh",
            "-c",
            "for process in 1 $(pgrep -x dockerd) $(pgrep -x containerd) $$; do
                 echo $(cat /proc/$process/comm): $(find /proc/$process/fd -lname /inherited | wc -l)
             done
             echo open: $(find /proc/[0-9]*/fd -lname /inherited | wc -l)",
        ]);
    assert_eq!(
        output.text(),
        "open: 1000\ndind: 0\ndockerd: 0\ncontainerd: 0\nsh: 0\nopen: 0"
    );
}

/// The command has standard input, output and error, and no descriptor of dind's.
#[test]
fn the_command_has_three_descriptors() {
    let output = dind().run(&[
        "bash",
        "-c",
        "for number in {0..255}; do [ ! -e /proc/$$/fd/$number ] || echo $number; done",
    ]);
    assert_eq!(output.text(), "0\n1\n2");
}
