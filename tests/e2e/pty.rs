//! A terminal with somebody at it: types, and waits for what comes back.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use nix::pty::{Winsize, openpty};
use nix::unistd::ttyname;

use crate::docker::{Container, Running, Spec, deadline, lab};

/// Ctrl-C.
pub const INTERRUPT: &str = "\x03";
/// Ctrl-Z.
pub const SUSPEND: &str = "\x1a";

/// A command that shows the status of the one before it. The quotes tell what it
/// prints from its echo.
pub const SHOW_STATUS: &str = r#"echo "sta""tus=$?;""#;

/// Rows and columns at the start: nobody's default.
pub const SIZE: (u16, u16) = (37, 111);

/// `docker run -it` on a terminal of its own.
pub struct Pty {
    pub container: Container,
    cli: Running,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// The name of the end that the CLI has.
    slave: PathBuf,
    seen: String,
    /// How much of `seen` has been waited for.
    read: usize,
}

impl Pty {
    /// Runs `command`, or a login shell where it is empty.
    pub fn run(spec: &Spec, command: &[&str]) -> Self {
        lab("DOCKER_HOST");
        let size = Winsize {
            ws_row: SIZE.0,
            ws_col: SIZE.1,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).expect("a pseudo-terminal; see pty(7)");
        let slave = ttyname(&pair.slave).expect("a terminal has a name");
        let (container, words) = spec.attached(&["--interactive", "--tty"], command);
        let end = || {
            Stdio::from(
                pair.slave
                    .try_clone()
                    .expect("a descriptor can be duplicated"),
            )
        };
        // As its controlling terminal, so that the CLI is told of a new size.
        let cli = Command::new("setsid")
            .args(["--ctty", "docker"])
            .args(words)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid of util-linux");
        // With it open here too, the end of the CLI would not be seen.
        drop(pair.slave);
        let keyboard = File::from(pair.master);
        let mut master = keyboard
            .try_clone()
            .expect("a descriptor can be duplicated");
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            // EIO is how a terminal says that nobody has its other end open.
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            container,
            cli: Running(cli),
            keyboard,
            screen,
            slave,
            seen: String::new(),
            read: 0,
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("the terminal takes what is typed");
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.press(line);
        self.press("\r");
    }

    /// Waits for `text` in what has come since the last wait, and returns what stood
    /// before it. What was typed is echoed: `text` must not be in it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let by = Instant::now() + deadline();
        loop {
            if let Some(at) = self.seen[self.read..].find(text) {
                let before = self.seen[self.read..self.read + at].to_owned();
                self.read += at + text.len();
                return before;
            }
            match self
                .screen
                .recv_timeout(by.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!(
                    "{text:?} does not come ({error}); the terminal shows\n{}\n---",
                    self.seen
                ),
            }
        }
    }

    /// Waits until the shell has carried out everything that was typed. The marks
    /// are told from their echo by the quotes.
    #[track_caller]
    pub fn settle(&mut self) {
        self.type_line("echo do''ne-\"\"typing");
        self.expect("done-typing");
    }

    /// Runs a command in the shell, and returns what it printed and its status.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> (String, i32) {
        self.type_line(&format!("echo ans''wer; {command}; {SHOW_STATUS}"));
        self.expect("answer");
        let printed = self.expect("status=");
        let status = self.read_status();
        (printed.replace('\r', "").trim().to_owned(), status)
    }

    /// `$?` in the shell.
    #[track_caller]
    pub fn last_status(&mut self) -> i32 {
        self.type_line(SHOW_STATUS);
        self.shown_status()
    }

    /// What [`SHOW_STATUS`] shows once it is its turn.
    #[track_caller]
    pub fn shown_status(&mut self) -> i32 {
        self.expect("status=");
        self.read_status()
    }

    #[track_caller]
    fn read_status(&mut self) -> i32 {
        let status = self.expect(";");
        status
            .parse()
            .unwrap_or_else(|_| panic!("$? is {status:?}"))
    }

    /// Waits until a program of that name is in the foreground. A key that is
    /// pressed earlier is the shell's.
    #[track_caller]
    pub fn wait_foreground(&self, name: &str) {
        self.container
            .wait_until(&format!("ps -o stat= -C {name} | grep -q +"));
    }

    /// Gives the terminal another size, as a window manager would.
    pub fn resize(&self, rows: u16, columns: u16) {
        let status = Command::new("stty")
            .arg("-F")
            .arg(&self.slave)
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .status()
            .expect("stty of coreutils");
        assert!(status.success(), "stty: {status}");
    }

    /// Waits until the CLI has ended; its exit status, which is the container's.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let status = self.container.wait();
        let ended = self.cli.0.wait().expect("a child can be waited for");
        assert_eq!(
            ended.code(),
            Some(status),
            "docker run must end as its container does"
        );
        status
    }

    /// Everything that the terminal has shown so far.
    pub fn shown(&self) -> &str {
        &self.seen
    }
}
