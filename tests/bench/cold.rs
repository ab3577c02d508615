//! `tests/lab bench --cold [SUITE]`: a start whose programs are not in the page cache, as the first
//! one after a boot, against dockerd alone.
//!
//! The programs are copied within the container, since pages that another container has mapped
//! stay, and the copies are evicted: posix_fadvise(2), POSIX_FADV_DONTNEED, by dd. Nothing else of
//! the machine's cache goes.

use crate::docker::Result;
use crate::harness::{Contestant, engine, progress, ratio, rounds, spread, variable};

const EVICT: &str = "
for name in dind dockerd containerd runc iptables; do
    file=$(readlink -f \"$(command -v $name)\") || exit
    cp -p $file $file.cold && mv $file.cold $file && sync $file || exit
    dd if=$file iflag=nocache count=0 2>/dev/null || exit
done";

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let warm = Contestant::new("dind, unix + tcp", &image, &["dind"]).env("DOCKER_TLS_CERTDIR=");
    let plain = Contestant::new(
        "dockerd, unix",
        &image,
        &["dockerd", "--host=unix:///bench/docker.sock"],
    );
    let cold = |contestant: &Contestant| Contestant {
        name: format!("{}, cold", contestant.name),
        ..contestant.clone().before(EVICT)
    };
    let contestants = [cold(&warm), cold(&plain), warm, plain];
    let rounds = rounds()?;
    let mut ready: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        for (contestant, ready) in contestants.iter().zip(&mut ready) {
            progress(round, rounds, &contestant.name);
            let started = contestant.start(&[])?;
            if round > 0 {
                ready.push(started.ready.as_secs_f64());
            }
        }
    }
    eprintln!();
    println!(
        "{}, {rounds} interleaved runs, median (min to max)",
        engine(&image)?
    );
    println!("{:<28} {:>26}", "", "ready, s");
    for (contestant, ready) in contestants.iter().zip(&ready) {
        println!("{:<28} {:>26}", contestant.name, spread(ready));
    }
    let [cold, cold_plain, warm, warm_plain] = &ready;
    println!("\ncold, against dockerd {:>6.2}", ratio(cold, cold_plain));
    println!("warm, against dockerd {:>6.2}", ratio(warm, warm_plain));
    Ok(())
}
