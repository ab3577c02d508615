//! The command line and the environment: before the first line `==` the words with argv[0]
//! first, after it the variables. A daemon is only started where that can work, and a
//! command is run word for word.

#![no_main]

use dind::facts::capabilities::{Capabilities, CapabilitySet};
use dind::facts::client::ClientFacts;
use dind::facts::rootless::{Device, Extent, Range, Rootless};
use dind::facts::surroundings::{SocketState, Stdin, Surroundings};
use dind::input::config::Config;
use dind::input::request::{self, Request};
use dind::plan::client;
use dind::plan::role::{self, Role};
use dind_fuzz::{enough, environment, words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let split = data.windows(4).position(|found| found == b"\n==\n");
    let (arguments, variables) = match split {
        Some(place) => (&data[..place], &data[place + 4..]),
        None => (data, &[][..]),
    };
    let arguments = words(arguments);
    let config = Config::read(arguments.clone(), environment(variables));
    let start = match request::request(&config) {
        Ok(Request::Start(start) | Request::Plan(start)) => start,
        Ok(
            Request::Help(_)
            | Request::Version
            | Request::Health(_)
            | Request::Doctor(_)
            | Request::Store(_)
            | Request::Seccomp
            | Request::DockerProxy(_)
            | Request::Nest(_),
        ) => return,
        Err(fault) => return assert_eq!(fault.status, 2),
    };
    assert!(config.arguments.ends_with(&start.arguments));
    let states = [
        SocketState::Free,
        SocketState::Live,
        SocketState::Mounted { live: true },
        SocketState::Mounted { live: false },
    ];
    // With the container's rights, in a user namespace as an ordinary user, and in neither.
    for (effective, facts) in [
        (CapabilitySet::ALL, None),
        (CapabilitySet::NONE, Some(rootless())),
        (CapabilitySet::NONE, None),
    ] {
        let is_prepared = effective == CapabilitySet::ALL;
        let may_start = is_prepared || (facts.is_some() && config.rootless != Some(false));
        for socket_state in states {
            for stdin in [Stdin::Terminal, Stdin::Null, Stdin::Other] {
                let surroundings = Surroundings {
                    rootless: facts.clone(),
                    stdin,
                    capabilities: Capabilities {
                        effective,
                        bounding: CapabilitySet::ALL,
                    },
                    user: 1000,
                    socket: config.socket_path(start.contract),
                    socket_state,
                };
                let Ok(role) = role::decide(&start, &config, &surroundings) else {
                    continue;
                };
                match role {
                    Role::Serve(serve) => {
                        assert!(may_start && socket_state == SocketState::Free);
                        let words: Vec<_> = serve.arguments.words().cloned().collect();
                        let line = words.strip_prefix(config.daemon_arguments.as_slice());
                        assert!(line.is_some_and(|line| start.arguments.ends_with(line)));
                        assert!(start.arguments.ends_with(&serve.ignored));
                    }
                    Role::Session { command, .. } => {
                        assert!(may_start && socket_state == SocketState::Free);
                        assert_eq!(command, start.arguments);
                    }
                    Role::Prepare { command } => {
                        assert!(is_prepared);
                        assert_eq!(command, start.arguments);
                    }
                    Role::Client { command } => {
                        assert_eq!(command, start.arguments);
                        client(&command, &config);
                    }
                    Role::Inform { arguments } => {
                        let words: Vec<_> = arguments.words().cloned().collect();
                        assert!(words.starts_with(&config.daemon_arguments));
                    }
                }
            }
        }
    }
});

/// All that is needed of a container for an ordinary user.
fn rootless() -> Rootless {
    let ids = vec![Extent {
        inside: 0,
        outside: 0,
        count: u32::MAX,
    }];
    let given = vec![Range {
        first: 100_000,
        count: 65_536,
    }];
    Rootless {
        uid_map: ids.clone(),
        gid_map: ids,
        subuids: given.clone(),
        subgids: given,
        tun: Device::Open,
        no_new_privileges: false,
        map_programs: Some(["/usr/bin/newuidmap".into(), "/usr/bin/newgidmap".into()]),
        ..enough()
    }
}

fn client(command: &[std::ffi::OsString], config: &Config) {
    for (docker, certificates) in [(true, true), (true, false), (false, false)] {
        let facts = ClientFacts {
            docker,
            certificates,
            ..ClientFacts::default()
        };
        let found = client::command(command, &facts);
        assert!(found.ends_with(command) && found.len() <= command.len() + 1);
        if found.len() > command.len() {
            assert!(docker && found[0] == "docker");
        }
        let ours = ["DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"];
        let others = |environment: &[(std::ffi::OsString, std::ffi::OsString)]| {
            let mut others = environment.to_vec();
            others.retain(|(name, _)| !ours.iter().any(|own| name == own));
            others
        };
        let environment = client::environment(config, &facts);
        assert_eq!(others(&environment), others(&config.environment));
        assert!(environment.iter().any(|(name, _)| name == "DOCKER_HOST"));
    }
}
