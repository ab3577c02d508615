//! One TCP connection as fast as it goes, out of a container and into it: this program again, as a
//! server outside and as a client inside. A shell's tools have too small buffers for the faster ways.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::docker::Result;

/// The port of the server.
pub const PORT: u16 = 5201;

/// How long is sent.
const TIME: Duration = Duration::from_secs(3);

const BUFFER: usize = 256 << 10;

/// The first byte of a connection: who sends.
const OUT: u8 = b'o';
const IN: u8 = b'i';

/// Serves until it is killed, one connection after the other.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    for stream in listener.incoming() {
        // A client that has given up is no reason to end.
        let _ = stream.map_err(Into::into).and_then(answer);
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut direction = [0];
    stream.read_exact(&mut direction)?;
    match direction {
        [OUT] => {
            let count = sink(&mut stream)?;
            stream.write_all(&count.to_be_bytes())?;
        }
        _ => {
            send(&mut stream)?;
            // Until the client has everything: where this end is closed before, what passes the
            // connection on may reset it.
            sink(&mut stream)?;
        }
    }
    Ok(())
}

/// Sends to a server, or lets it send, and prints Mbit/s.
pub fn measure(direction: &str, server: &str) -> Result<()> {
    let mut stream = TcpStream::connect((server, PORT))?;
    let began = Instant::now();
    let count = match direction {
        "out" => {
            stream.write_all(&[OUT])?;
            send(&mut stream)?;
            let mut count = [0; 8];
            stream.read_exact(&mut count)?;
            u64::from_be_bytes(count)
        }
        _ => {
            stream.write_all(&[IN])?;
            sink(&mut stream)?
        }
    };
    let bits = count as f64 * 8.0;
    println!("{:.0}", bits / began.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

fn send(stream: &mut TcpStream) -> Result<()> {
    let zeros = vec![0; BUFFER];
    let began = Instant::now();
    while began.elapsed() < TIME {
        stream.write_all(&zeros)?;
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn sink(stream: &mut TcpStream) -> Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(count),
            Ok(read) => count += read as u64,
            // pasta ends a connection so once in a while. What came is measured all the same.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && count > 0 => {
                return Ok(count);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
