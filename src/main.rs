//! The order of the phases, the exit status, and the one place that prints an error.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use dind::apply::sockets::{self, Opened};
use dind::apply::{self, claim, delegate, netfilter};
use dind::facts::client::ClientFacts;
use dind::facts::container::ContainerFacts;
use dind::facts::mountinfo::MountTable;
use dind::facts::programs::{self, InformFacts};
use dind::facts::surroundings::{self, Surroundings};
use dind::facts::{self, Facts, Known, daemon_json, proc};
use dind::helpers::probe;
use dind::input::cli;
use dind::input::config::{self, Config};
use dind::input::contract::Contract;
use dind::input::docker_proxy::Proxy;
use dind::input::dockerd_arguments::DockerdArguments;
use dind::input::request::{self, Request, Start};
use dind::input::store::StoreRequest;
use dind::input::variables::DIND_STORE;
use dind::messages::fault::{FAILURE, Fault};
use dind::messages::finding::Severity;
use dind::messages::line::one_line;
use dind::messages::logging;
use dind::messages::remedy::Remedy;
use dind::plan::engine::Engine;
use dind::plan::inputs::{Addresses, Inputs};
use dind::plan::listener::Listener;
use dind::plan::outcome::{Outcome, Plan};
use dind::plan::role::{self, Role, Serve};
use dind::plan::saving;
use dind::plan::{self, client, inform, prepare, rootless, rootless_network, seccomp};
use dind::programs::docker_proxy::{self, Next};
use dind::programs::{doctor, health, nest, store};
use dind::store::disk::Form;
use dind::supervise::{self, Beginning};
use dind::sys::signals::{self, Inherited, Signals};
use dind::sys::{descriptors, log, search, spawn};
use nix::sys::stat::{Mode, umask};
use tracing::{Level, error, info, warn};

fn main() -> ExitCode {
    let inherited = signals::block();
    let started = Instant::now();
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    logging::start(config::logs(&environment), log::open());
    let run = |inherited| run(environment, started, inherited);
    let status = match inherited.map_err(Fault::from).and_then(run) {
        Ok(status) => status,
        Err(fault) => {
            error!(status = fault.status, "{fault}");
            fault.status
        }
    };
    log::finish(Some(log::LAST_CHANCE));
    ExitCode::from(status)
}

fn run(
    environment: Vec<(OsString, OsString)>,
    started: Instant,
    inherited: Inherited,
) -> Result<u8, Fault> {
    let config = Config::read(std::env::args_os(), environment);
    let request = request::request(&config)?;
    if !matches!(request, Request::Start(_) | Request::Nest(_)) {
        inherited
            .unblock()
            .context("cannot unblock signals")
            .remedy("see sigprocmask(2)")?;
        log::be_patient();
    }
    match request {
        Request::Help(text) => print(&text),
        Request::Version => print(&cli::version()),
        Request::Plan(start) => match make_plan(&config, &start, Intent::Show) {
            Ok(made) => print(&made.plan.to_string()),
            Err(fault) => print(&format!(
                "contract: {}\nwould stop: {} (exit status {})\n",
                start.contract.name(),
                one_line(&fault.to_string()),
                fault.status
            )),
        },
        Request::Doctor(how) => {
            let (text, status) = doctor::report(&doctor::examine(&config, true)?, how);
            print(&text).map(|_| status)
        }
        Request::Store(request) => match request {
            StoreRequest::List(path) => print(&store::list(&path)?),
            StoreRequest::Check(path) => {
                let (text, whole) = store::check(&path)?;
                print(&text).map(|status| if whole { status } else { FAILURE })
            }
            StoreRequest::Prune(path, kept) => print(&store::prune(&path, kept)?),
            StoreRequest::Detach(path) => {
                config.check(|variable| variable == DIND_STORE)?;
                print(&store::detach(&config, path.as_deref())?)
            }
            // It is a start.
            StoreRequest::Save(_) => Ok(FAILURE),
        },
        Request::Seccomp => print(&seccomp::text()),
        Request::Health(how) => Ok(health::check(&config, how).map_or_else(answer, |()| 0)),
        Request::Nest(nest) => {
            // The variables reach the next level, a start like any other.
            config.check(|variable| variable.is_refused_by(Contract::Dind))?;
            nest::run(&nest, &config, Signals::catch(inherited)?).map(|never| match never {})
        }
        Request::DockerProxy(proxy) => publish(&proxy, &config, &inherited),
        Request::Start(start) => {
            let mut signals = Signals::catch(inherited)?;
            let made = make_plan(&config, &start, Intent::Start(&mut signals))?;
            carry_out(made, &config, signals, started)
        }
    }
}

/// What a plan is made for.
enum Intent<'a> {
    /// To be shown: nothing is changed on the way.
    Show,
    /// To be carried out. What cannot be read is found out first, and a file system that does
    /// not answer is waited for only as long as no signal asks for the end.
    Start(&'a mut Signals),
}

impl Intent<'_> {
    /// Waits, before a start, for the file systems of these paths to answer.
    fn probe(
        &mut self,
        paths: &[impl AsRef<Path>],
        mounts: &MountTable,
        config: &Config,
    ) -> Result<(), Fault> {
        match self {
            Self::Show => Ok(()),
            Self::Start(signals) => {
                let paths = paths.iter().map(AsRef::as_ref);
                probe::answer(paths, mounts, signals, config.ready_timeout)
            }
        }
    }

    /// Binds the sockets of a start.
    fn bind(&self, listeners: &[Listener]) -> Option<Result<Entrance, Fault>> {
        match self {
            Self::Show => None,
            Self::Start(signals) => Some(bind(listeners, signals)),
        }
    }
}

/// The sockets of a start, and the user's file mode creation mask, which was in force until then.
struct Entrance {
    opened: Opened,
    umask: Mode,
}

/// Binds the sockets. Then clients wait until dockerd answers, whatever this start still has to do.
fn bind(listeners: &[Listener], signals: &Signals) -> Result<Entrance, Fault> {
    // A command that this process becomes may be waiting for some of them.
    descriptors::close_other_descriptors(&signals.descriptors()).map_err(|error| {
        Fault::failure(format!("cannot close inherited descriptors: {error}")).remedy("mount /proc")
    })?;
    // What dockerd sets for itself and so for its containerd (setDefaultUmask in moby's
    // cmd/dockerd/daemon_unix.go): clients read what is made here, whatever the user's is.
    let umask = umask(Mode::from_bits_truncate(0o022));
    let opened = sockets::open(listeners)?;
    Ok(Entrance { opened, umask })
}

/// A plan, and the sockets that are bound already: those of a start with daemons.
struct Made {
    plan: Plan,
    entrance: Option<Entrance>,
    /// The sockets that the rules for a veth pair and the claim on its network end with.
    kept: Vec<OwnedFd>,
}

impl From<Plan> for Made {
    fn from(plan: Plan) -> Self {
        Self {
            plan,
            entrance: None,
            kept: Vec::new(),
        }
    }
}

fn make_plan(config: &Config, start: &Start, mut intent: Intent<'_>) -> Result<Made, Fault> {
    // They are read once in a start: see `proc::mounts`.
    let mounts = proc::mounts()?;
    let contract = start.contract;
    let socket = config.socket_path(contract);
    // Whether a daemon answers there is asked before the role is known.
    let directory = socket.parent().unwrap_or(Path::new("/"));
    intent.probe(&[directory], &mounts, config)?;
    let surroundings = surroundings::read(socket, &mounts, config)?;
    let surroundings = match rootless::socket(&surroundings, config) {
        Some(socket) => surroundings.listening_on(socket, &mounts),
        None => surroundings,
    };
    match role::decide(start, config, &surroundings)? {
        Role::Client { command } => {
            let bash = command.is_empty() && programs::has_bash(&config.search_path);
            let facts = ClientFacts::read(config);
            Ok(client::plan(contract, &command, config, &facts, bash).into())
        }
        Role::Inform { arguments } => {
            let facts = InformFacts::read(&config.search_path)?;
            inform::plan(contract, &arguments, config, &facts).map(Made::from)
        }
        Role::Prepare { command } => {
            let facts = ContainerFacts::read(mounts)?;
            Ok(prepare::plan(contract, &command, config, &facts).into())
        }
        Role::Serve(serve) => plan_daemons(
            config,
            start,
            intent,
            &surroundings,
            mounts,
            (&serve.arguments, Some(&serve)),
            |arguments, inputs| {
                let arguments = arguments.clone();
                let serve = Serve {
                    arguments,
                    ..serve.clone()
                };
                plan::serve(&serve, inputs)
            },
        ),
        Role::Session {
            command,
            levels_below,
            arguments,
        } => plan_daemons(
            config,
            start,
            intent,
            &surroundings,
            mounts,
            (&arguments, None),
            |arguments, inputs| plan::session(&command, levels_below, arguments, inputs),
        ),
    }
}

/// Binds the sockets of a start with daemons, reads what only such a start reads, and returns the
/// plan that `plan` makes of it. dockerd's arguments come with the role, if it is to serve.
///
/// Where the sockets cannot be bound, the plan may know why, as with a file system that is
/// read-only. So its fault comes first.
fn plan_daemons(
    config: &Config,
    start: &Start,
    mut intent: Intent<'_>,
    surroundings: &Surroundings,
    mounts: MountTable,
    (arguments, serve): (&DockerdArguments, Option<&Serve>),
    plan: impl Fn(&DockerdArguments, Inputs<'_>) -> Result<Plan, Fault>,
) -> Result<Made, Fault> {
    let (path, asked) = arguments.config_file();
    let saved = start.save.as_ref().map(|save| &save.path);
    let first: Vec<&Path> = std::iter::once(&path)
        .chain(saved)
        .map(|path| path.as_path())
        .collect();
    intent.probe(&first, &mounts, config)?;
    let text = daemon_json::read(&path, asked)?;
    let file = text.as_deref().map(|text| (path.as_path(), text));
    let mut options = arguments.options(file)?;
    // The data root of a save is in its store, and that of an ordinary user at home.
    let elsewhere = match &start.save {
        Some(save) => {
            let form = Form::of(&save.path);
            Some(saving::arguments(save, form, arguments, &options)?)
        }
        None => rootless::arguments(surroundings, config, arguments, &options),
    };
    if let Some(arguments) = &elsewhere {
        options = arguments.options(file)?;
    }
    let mut known = Known::read(&options);
    // Another user cannot give the socket to a group.
    known.socket_group = known.socket_group.filter(|_| surroundings.user == 0);
    known.store = saved.cloned();
    let addresses = Addresses {
        contract: start.contract,
        config,
        save: start.save.as_ref(),
        options: &options,
        surroundings,
        group: known.socket_group,
    };
    known.rootless = addresses.is_rootless();
    let entrance = intent.bind(&plan::listeners(serve, addresses));
    known.command = serve.is_none();
    known.certificates = plan::has_certificates(addresses);
    if let Some(Ok(entrance)) = &entrance {
        known.sockets = entrance.opened.inodes();
    }
    intent.probe(&facts::directories(&options, config), &mounts, config)?;
    let mut facts = Facts::read(mounts, &options, config, known)?;
    let inputs = addresses.with(&facts);
    // A nest counts what the image store keeps.
    let counts = start.nest.as_ref().is_some_and(|nest| nest.level == 1);
    if counts || plan::stores_question(inputs) {
        facts = facts.with_image_stores();
    }
    let inputs = addresses.with(&facts);
    let starts = matches!(intent, Intent::Start(_));
    let note = match &start.nest {
        Some(nest) => nest::check(
            nest,
            config,
            &facts,
            plan::image_copies(inputs),
            plan::image_archives(inputs),
            starts,
        )?,
        None => None,
    };
    let arguments = elsewhere.as_ref().unwrap_or(arguments);
    let mut planned = plan(arguments, inputs)?;
    if starts && plan::netfilter_question(inputs).is_some() {
        // The faults do not depend on the answer, and there were none.
        facts.netfilter.nf_tables = netfilter::ask();
        planned = plan(arguments, addresses.with(&facts))?;
    }
    let mut kept = Vec::new();
    if starts && let Some(name) = planned.veth() {
        match netfilter::translate(name) {
            Ok(rules) => {
                kept.push(rules);
                let candidates = rootless_network::candidates(&facts.networks);
                if let Some((network, claim)) = claim::first(&candidates) {
                    kept.push(claim);
                    // The plan has the first one already.
                    if candidates.first() != Some(&network) {
                        facts.networks.claimed = Some(network);
                        planned = plan(arguments, addresses.with(&facts))?;
                    }
                }
            }
            Err(refusal) => {
                let surroundings = rootless::without_rules(surroundings, config, refusal)?;
                let addresses = Addresses {
                    surroundings: &surroundings,
                    ..addresses
                };
                planned = plan(arguments, addresses.with(&facts))?;
            }
        }
    }
    planned.notes.extend(note);
    Ok(Made {
        plan: planned,
        entrance: entrance.transpose()?,
        kept,
    })
}

fn carry_out(made: Made, config: &Config, signals: Signals, started: Instant) -> Result<u8, Fault> {
    let Made {
        plan,
        entrance,
        kept,
    } = made;
    match &plan.outcome {
        Outcome::Supervise(engine) => {
            // Only a plan that is shown has none, and that one is not carried out.
            let entrance = entrance.map_or_else(|| bind(&engine.listeners, &signals), Ok)?;
            supervise_engine(&plan, engine, (entrance, kept), config, signals, started)
        }
        Outcome::Become {
            command,
            environment,
        } => {
            say(&plan);
            if let Some(unfinished) = apply::apply(&plan.steps)? {
                match delegate::finish(&unfinished) {
                    Ok(done) => done.log(),
                    Err(error) => {
                        warn!("{}", Fault::from(error).consequence("going on without it"));
                    }
                }
            }
            let inherited = signals.inherited();
            Err(become_command(command, environment, config, inherited))
        }
    }
}

fn supervise_engine(
    plan: &Plan,
    engine: &Engine,
    (entrance, kept): (Entrance, Vec<OwnedFd>),
    config: &Config,
    signals: Signals,
    started: Instant,
) -> Result<u8, Fault> {
    let Entrance { opened, umask } = entrance;
    opened.warn();
    say(plan);
    let delegation = apply::apply(&plan.steps)?;
    let beginning = Beginning {
        opened,
        delegation,
        kept,
        umask,
        started,
    };
    supervise::run(engine, config, signals, beginning)
}

fn say(plan: &Plan) {
    for note in &plan.notes {
        info!(code = note.code, link = note.link, "{note}");
    }
    for warning in &plan.warnings {
        let (code, link) = (warning.code, warning.link);
        match warning.severity {
            Severity::Error => error!(code, link, "{warning}"),
            Severity::Warning | Severity::Note => warn!(code, link, "{warning}"),
        }
    }
}

/// Returns only when it failed.
fn become_command(
    command: &[OsString],
    environment: &[(OsString, OsString)],
    config: &Config,
    inherited: &Inherited,
) -> Fault {
    let path = match search::find(command, &config.search_path) {
        Ok(path) => path,
        Err(fault) => return fault,
    };
    let arguments: Vec<&OsStr> = command.iter().map(OsString::as_os_str).collect();
    spawn::become_program(&path, &arguments, environment, inherited).fault(path.as_os_str())
}

/// Publishes a port, and becomes docker-proxy. dockerd gets the fault, too.
fn publish(proxy: &Proxy, config: &Config, inherited: &Inherited) -> Result<u8, Fault> {
    let environment = &config.environment;
    let fault =
        match docker_proxy::publish(proxy, &docker_proxy::told(environment, &config.program)) {
            Ok(Next::Nothing) => return Ok(0),
            Ok(Next::Become(command)) => become_command(&command, environment, config, inherited),
            Err(error) => Fault::from(error),
        };
    docker_proxy::tell_failure(&fault);
    Err(fault)
}

/// Prints the reason to standard error as text, whatever the log's format and level: it was asked
/// for. Returns the exit status.
fn answer(fault: Fault) -> u8 {
    use std::io::Write;
    let text = logging::text(Level::ERROR, &fault.to_string(), false);
    let _ = writeln!(std::io::stderr(), "{text}");
    fault.status
}

/// Prints to standard output, whose reader may have closed it. Returns exit status 0.
fn print(text: &str) -> Result<u8, Fault> {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(0)
}
