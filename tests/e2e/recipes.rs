//! The files of tests/recipes, with this machine's images in the place of a registry's.
//!
//! Executed by the tools that they are for: Compose's and the devcontainer. Executed by the
//! same calls of `docker` that those tools make, with what the file says: GitLab's, GitHub's
//! and Gitea's jobs, and every pod. All but the devcontainer and the two values files are
//! held against their format's published schema, too.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::docker::{
    BUSYBOX, Container, Network, Output, Scratch, Spec, Volume, deadline, dind, docker, lab,
    line_with, unique_name, unprivileged,
};
use crate::warm_starts::save;

/// What a job of a recipe prints.
const PRINTED: &str = "a container of the inner engine";

/// The words of that job, for recipes that leave it open.
const JOB: [&str; 6] = ["docker", "run", "--rm", "busybox", "echo", PRINTED];

/// The names of images in recipes, which are nobody's here.
fn with_images(recipe: &str) -> String {
    let image = lab("DIND_LAB_IMAGE");
    recipe
        .replace("image: dind\n", &format!("image: {image}\n"))
        .replace("\"image\": \"dind\"", &format!("\"image\": \"{image}\""))
}

/// A container that is a client of the engine which the tests use.
fn beside_the_engine(image: &str) -> Spec {
    let spec = unprivileged().image(&lab(image));
    let host = lab("DOCKER_HOST");
    match host.strip_prefix("unix://") {
        Some(path) => spec
            .flags(["-v", &format!("{path}:/var/run/docker.sock")])
            .env("DOCKER_HOST", "unix:///var/run/docker.sock"),
        None => spec.flags(["--network", "host"]).env("DOCKER_HOST", &host),
    }
}

/// The documents of a YAML file.
fn documents(yaml: &str) -> Vec<Value> {
    const CONVERT: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let scratch = Scratch::new();
    let json = unprivileged()
        .image(&lab("DIND_LAB_TOOLS"))
        .run_with_stdin(&scratch.file("yaml", yaml), &["python", "-c", CONVERT])
        .text();
    serde_json::from_str(&json).expect("Python writes JSON")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} of {value}"))
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn words<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    let items = items(value, pointer).iter();
    items.map(|word| word.as_str().expect("a word")).collect()
}

fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let empty = None::<&Map<String, Value>>;
    let object = value.pointer(pointer).and_then(Value::as_object).or(empty);
    object
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_str().expect("text")))
}

/// Gives the engine of `container` what recipes call busybox. `host` is where it listens: a
/// service has its job's variables, which are for another way to it.
fn load_busybox(container: &Container, host: &str) {
    let docker = ["env", "-u", "DOCKER_TLS_VERIFY", "docker", "-H", host];
    container
        .exec_call(
            &["--interactive"],
            &[&docker[..], &["load", "--quiet"]].concat(),
        )
        .stdin(Path::new(&lab("DIND_LAB_BUSYBOX")))
        .finish()
        .exited(0);
    container.text(&[&docker[..], &["tag", BUSYBOX, "busybox"]].concat());
}

const SOCKET: &str = "unix:///var/run/docker.sock";

/// Waits for what no event tells.
#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let by = Instant::now() + deadline();
    while !done() {
        assert!(Instant::now() < by, "{what}: not before the deadline");
        thread::sleep(Duration::from_millis(200));
    }
}

/// A project of Compose's on the engine that the tests use. It goes with this value.
struct Project {
    name: String,
    scratch: Scratch,
    spec: Spec,
}

impl Project {
    fn new(recipe: &str) -> Self {
        let scratch = Scratch::new();
        scratch.file("compose.yaml", &with_images(recipe));
        let spec = beside_the_engine("DIND_LAB_CLIENTS").flags(scratch.mounted_on("/project"));
        Self {
            name: unique_name(),
            scratch,
            spec,
        }
    }

    /// Sets a variable that the file asks for.
    fn env(mut self, name: &str, value: &str) -> Self {
        self.spec = self.spec.clone().env(name, value);
        self
    }

    fn compose(&self, arguments: &[&str]) -> Output {
        let program = "/usr/libexec/docker/cli-plugins/docker-compose";
        let command = [program, "-f", "/project/compose.yaml", "-p", &self.name];
        self.spec.run(&[&command, arguments].concat())
    }

    /// The container of a service.
    fn service(&self, name: &str) -> Container {
        Container {
            name: format!("{}-{name}-1", self.name),
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let down = self.compose(&["down", "--volumes", "--timeout", "1"]);
        if down.status != 0 {
            let path = self.scratch.path.display();
            eprintln!("{} of {path} is left behind: {}", self.name, down.stderr);
        }
    }
}

#[test]
fn compose_waits_for_health_and_runs_a_job() {
    let project = Project::new(include_str!("../recipes/compose.yaml"));
    project
        .compose(&["up", "--detach", "--wait", "docker"])
        .exited(0);
    let daemon = project.service("docker");
    assert_eq!(daemon.inspect("{{.State.Health.Status}}"), "healthy");
    load_busybox(&daemon, SOCKET);
    let job = project.compose(&["run", "--rm", "--no-TTY", "job"]);
    assert_eq!(job.text(), PRINTED);
    // The job has its certificates and nothing else: no socket, no privilege.
    let job = project.compose(&["run", "--rm", "--no-TTY", "job", "context", "inspect"]);
    assert!(job.text().contains("tcp://docker:2376"));
}

/// Serves a registry; without `-e REGISTRY_PROXY_REMOTEURL` one of its own.
const REGISTRY: &str = "\
    printf 'version: 0.1\\nstorage: {filesystem: {rootdirectory: /registry}}\\nhttp: {addr: \":5000\"}\\n' >/config.yml; \
    exec docker-registry serve /config.yml";

/// A registry in this network that plays Docker Hub, with busybox in it. Engines ask it where they
/// have [`MIRROR`].
fn hub(network: &str) -> Container {
    let hub = unprivileged()
        .image(&lab("DIND_LAB_CLIENTS"))
        .flags(["--network", network, "--network-alias", "hub"])
        .start(&["sh", "-c", REGISTRY]);
    let publisher = dind()
        .flags(["--network", network])
        .ready(&["--insecure-registry=hub:5000"]);
    load_busybox(&publisher, SOCKET);
    publisher.text(&["docker", "tag", BUSYBOX, "hub:5000/library/busybox"]);
    hub.wait_log("listening on", 1);
    publisher.text(&["docker", "push", "hub:5000/library/busybox"]);
    hub
}

/// The flag of an engine that pulls from [`hub`].
const MIRROR: &str = "--registry-mirror=http://hub:5000";

/// One registry plays Docker Hub. What one runner has pulled, the other gets when the hub is
/// gone: out of the cache.
#[test]
fn what_one_runner_has_pulled_is_kept_for_the_other() {
    let recipe = include_str!("../recipes/cache.compose.yaml");
    let own = json!(["sh", "-c", REGISTRY]).to_string();
    let registry = format!("image: {}\n    command: {own}", lab("DIND_LAB_CLIENTS"));
    let project = Project::new(&recipe.replace("image: registry:2", &registry))
        .env("UPSTREAM", "http://hub:5000");
    project.compose(&["up", "--no-start"]).exited(0);
    let network = format!("{}_default", project.name);
    let hub = hub(&network);
    project.compose(&["up", "--detach", "--wait"]).exited(0);
    let runners = ["runner-1", "runner-2"].map(|name| project.service(name));
    assert_eq!(runners[0].text(&JOB), PRINTED);
    hub.docker(&["stop", "--time", "1"]).exited(0);
    assert_eq!(runners[1].text(&JOB), PRINTED);
    // And their data roots are two.
    let volumes = runners.each_ref().map(|runner| {
        runner.inspect(
            "{{range .Mounts}}{{if eq .Destination \"/var/lib/docker\"}}{{.Name}}{{end}}{{end}}",
        )
    });
    assert_ne!(volumes[0], volumes[1]);
}

/// A layer that is new whenever it is built is the same on both runners, for the second one
/// has it from the first one's push.
#[test]
fn a_runner_builds_with_the_layers_of_another() {
    let network = Network::new();
    let registry = unprivileged()
        .image(&lab("DIND_LAB_CLIENTS"))
        .flags(["--network", &network.name, "--network-alias", "registry"])
        .start(&["sh", "-c", REGISTRY]);
    registry.wait_log("listening on", 1);
    let scratch = Scratch::new();
    scratch.file(
        "Dockerfile",
        "FROM busybox\nRUN head -c 16 /dev/urandom | md5sum >/random\n",
    );
    scratch.file("build.sh", include_str!("../recipes/build-cache.sh"));
    let image = "registry:5000/app:1";
    let random = [0, 1].map(|_| {
        let runner = dind()
            .flags(["--network", &network.name])
            .env("DOCKER_TLS_CERTDIR", "")
            // With the scheme, or the BuildKit of 20.10 tries nothing but TLS
            // (RegistryHosts in its daemon/daemon.go).
            .ready(&["--insecure-registry=http://registry:5000"]);
        load_busybox(&runner, SOCKET);
        unprivileged()
            .image(&lab("DIND_LAB_TOOLS"))
            .flags(["--network", &network.name])
            .flags(scratch.mounted_on("/app"))
            .env("DOCKER_HOST", &format!("tcp://{}:2375", runner.name))
            .run(&["sh", "/app/build.sh", image, "/app"])
            .exited(0);
        runner.text(&["docker", "run", "--rm", image, "cat", "/random"])
    });
    assert_eq!(random[0], random[1]);
}

/// Three managers, three tasks. One node is killed: what it ran runs on the others. It comes
/// back as who it was.
#[test]
fn tasks_move_when_a_node_of_a_swarm_is_killed() {
    let project = Project::new(include_str!("../recipes/swarm.compose.yaml"));
    project.compose(&["up", "--detach", "--wait"]).exited(0);
    let nodes = ["node-1", "node-2", "node-3"].map(|name| project.service(name));
    // A node that misses three heartbeats is down; they are 5 s apart unless this says otherwise.
    nodes[0].text(&["docker", "swarm", "init", "--dispatcher-heartbeat=1s"]);
    let token = nodes[0].text(&["docker", "swarm", "join-token", "--quiet", "manager"]);
    for node in &nodes {
        load_busybox(node, SOCKET);
    }
    for node in &nodes[1..] {
        let join = ["docker", "swarm", "join", "--token", &token, "node-1:2377"];
        node.text(&join);
    }
    // There is no registry to ask what the name stands for.
    let service = "docker service create --detach --no-resolve-image --name web --replicas 3 \
                   busybox sleep infinity";
    nodes[0].sh(service);
    let tasks = || {
        let list = "docker service ps --filter desired-state=running \
                    --format '{{.Node}} {{.CurrentState}}' web";
        let tasks = nodes[0].sh(list);
        let running = tasks.lines().filter(|task| task.contains(" Running "));
        let mut nodes: Vec<_> = running
            .filter_map(|task| task.split(' ').next().map(str::to_owned))
            .collect();
        nodes.sort();
        nodes
    };
    wait_for("three tasks", || tasks() == ["node-1", "node-2", "node-3"]);
    nodes[2].signal("KILL");
    wait_for("three tasks on two nodes", || {
        let tasks = tasks();
        tasks.len() == 3 && !tasks.iter().any(|node| node == "node-3")
    });
    nodes[2].docker(&["start"]).exited(0);
    wait_for("the third node", || {
        let list = "docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'";
        let list = nodes[0].sh(list);
        list.lines().count() == 3 && line_with(&list, &["node-3 Ready Reachable"]).is_some()
    });
}

/// What a runner of GitLab's docker executor does for a job: a service under its alias, with
/// the job's variables, a volume that both have, the script on a shell's standard input.
#[test]
fn gitlabs_jobs_run_with_tls_and_without() {
    let recipe = &documents(include_str!("../recipes/gitlab-ci.yml"))[0];
    for (job, port) in [("tls", "2376"), ("plain", "2375")] {
        let certificates = Volume::new();
        let in_both = |mut spec: Spec| {
            for (name, value) in entries(recipe, &format!("/{job}/variables")) {
                spec = spec.env(name, value);
            }
            spec.flags(certificates.on("/certs/client"))
        };
        assert_eq!(text(recipe, &format!("/{job}/services/0/name")), "dind");
        let service = in_both(dind()).ready(&[]);
        service.logged(&["docker is ready", &format!("tcp://0.0.0.0:{port}")]);
        load_busybox(&service, SOCKET);
        let alias = text(recipe, &format!("/{job}/services/0/alias"));
        let scratch = Scratch::new();
        let base = text(recipe, &format!("/{job}/extends"));
        let script = words(recipe, &format!("/{base}/script")).join("\n");
        let script = scratch.file("script", &format!("set -e\n{script}\n"));
        let output = in_both(unprivileged())
            .flags(["--link", &format!("{}:{alias}", service.name)])
            .run_with_stdin(&script, &["sh"]);
        assert_eq!(output.text(), PRINTED);
    }
}

/// What the runners of GitHub and Gitea do for a job: a network, in it the services with
/// their options, the job's container that only sleeps, and each step by `docker exec`.
#[test]
fn githubs_and_giteas_jobs_run() {
    let github = include_str!("../recipes/github-workflow.yml");
    let gitea = include_str!("../recipes/gitea-workflow.yml");
    for (recipe, waits_for_health) in [(github, true), (gitea, false)] {
        let job = &documents(recipe)[0]["jobs"]["build"];
        let network = Network::new();
        let in_network = |spec: Spec, pointer: &str| {
            assert_eq!(text(job, &format!("{pointer}/image")), "dind");
            entries(job, &format!("{pointer}/env")).fold(
                spec.flags(["--network", &network.name]),
                |spec, (name, value)| spec.env(name, value),
            )
        };
        let options = text(job, "/services/docker/options").split_whitespace();
        let service = in_network(unprivileged(), "/services/docker")
            .flags(["--network-alias", "docker"])
            .flags(options)
            .start(&[]);
        if waits_for_health {
            wait_for("a healthy service", || {
                service.inspect("{{.State.Health.Status}}") == "healthy"
            });
        }
        let mut spec = in_network(unprivileged(), "/container").flags(["--entrypoint", "tail"]);
        // The runner's own engine, which is not the one that is meant.
        if let Some(path) = lab("DOCKER_HOST").strip_prefix("unix://") {
            spec = spec.flags(["-v", &format!("{path}:/var/run/docker.sock")]);
        }
        let container = spec.start(&["-f", "/dev/null"]);
        service.wait_ready();
        load_busybox(&service, SOCKET);
        for step in items(job, "/steps") {
            let output = container.exec(&["sh", "-e", "-c", text(step, "/run")]);
            assert_eq!(output.text(), PRINTED);
        }
    }
}

/// A container of a pod, as a kubelet starts it: privileged ones are in the host's cgroup
/// namespace. No pod of docker's has a user namespace, which `hostUsers: false` would give it.
/// `volumes` are those of the pod, with the name or the path that docker mounts.
fn pods_container(container: &Value, volumes: &[(String, String)]) -> Spec {
    let privileged = container.pointer("/securityContext/privileged") == Some(&Value::Bool(true));
    let mut spec = if privileged {
        dind().flags(["--cgroupns=host"])
    } else {
        unprivileged()
    };
    for variable in items(container, "/env") {
        spec = spec.env(text(variable, "/name"), text(variable, "/value"));
    }
    for mount in items(container, "/volumeMounts") {
        let name = text(mount, "/name");
        let (_, source) = volumes
            .iter()
            .find(|(known, _)| known == name)
            .unwrap_or_else(|| panic!("the pod has no volume {name}"));
        let target = text(mount, "/mountPath");
        let mode = match mount["readOnly"] == true {
            true => ":ro",
            false => "",
        };
        spec = spec.flags(["-v".to_owned(), format!("{source}:{target}{mode}")]);
    }
    let context = &container["securityContext"];
    for (list, flag) in [("/drop", "--cap-drop"), ("/add", "--cap-add")] {
        let names = words(&context["capabilities"], list);
        spec = spec.flags(names.iter().map(|name| format!("{flag}={name}")));
    }
    for (pointer, value, flag) in [
        (
            "/allowPrivilegeEscalation",
            json!(false),
            "no-new-privileges",
        ),
        ("/procMount", json!("Unmasked"), "systempaths=unconfined"),
        (
            "/appArmorProfile/type",
            json!("Unconfined"),
            "apparmor=unconfined",
        ),
        // What the kubelet finds in its directory.
        (
            "/seccompProfile/localhostProfile",
            json!("dind.json"),
            "seccomp=dind.json",
        ),
    ] {
        if context.pointer(pointer) == Some(&value) {
            spec = spec.flags(["--security-opt", flag]);
        }
    }
    if let Some(user) = context["runAsUser"].as_u64() {
        spec = spec.flags([format!("--user={user}")]);
    }
    if let Some(limits) = container.pointer("/resources/limits") {
        if limits["squat.ai/tun"] == 1 {
            spec = spec.flags(["--device=/dev/net/tun"]);
        }
        // Docker writes 2Gi as 2G.
        let memory = text(limits, "/memory").trim_end_matches('i');
        spec = spec.flags(["--memory", memory]);
        if limits["cpu"].is_string() {
            spec = spec.flags(["--cpus", text(limits, "/cpu")]);
        }
    }
    spec
}

/// Does with a pod what a kubelet does: the sidecar with its limits and volumes, its probes in
/// their order, a job in its network, and the end within the time that the pod has for it.
fn run_pod(spec: &Value, job: &str, user: &str) {
    run_pod_on(spec, job, user, &[], &["docker is ready"]);
}

/// The same on a node with these volumes for those of the host. The engine logs a line with `parts`.
fn run_pod_on(spec: &Value, job: &str, user: &str, host: &[(String, String)], parts: &[&str]) {
    let (own, hosts): (Vec<&Value>, Vec<&Value>) = items(spec, "/volumes")
        .iter()
        .partition(|volume| volume["emptyDir"].is_object());
    assert_eq!(hosts.len(), host.len());
    let own: Vec<_> = own
        .into_iter()
        .map(|volume| (text(volume, "/name").to_owned(), Volume::new()))
        .collect();
    let volumes: Vec<_> = own
        .iter()
        .map(|(name, volume)| (name.clone(), volume.name().to_owned()))
        .chain(host.iter().cloned())
        .collect();
    let named = |list: &str, name: &str| {
        items(spec, list)
            .iter()
            .find(|container| container["name"] == name)
            .unwrap_or_else(|| panic!("no container {name} in {list}"))
    };
    let sidecar = named("/initContainers", "dind");
    assert_eq!(sidecar["restartPolicy"], "Always");
    let dind = pods_container(sidecar, &volumes).start(&words(sidecar, "/args"));
    let probe = |probe: &str| {
        let command = words(sidecar, &format!("/{probe}/exec/command"));
        dind.exec(&command).status == 0
    };
    wait_for("the startup probe", || probe("startupProbe"));
    assert!(probe("livenessProbe") && probe("readinessProbe"));
    dind.logged(parts);

    let job = named("/containers", job);
    let host = items(job, "/env")
        .iter()
        .find(|variable| variable["name"] == "DOCKER_HOST")
        .map(|variable| text(variable, "/value"))
        .expect("the job knows its daemon");
    load_busybox(&dind, host);
    // A job that is not the recipe's own is anybody's.
    let mut command = words(job, "/command");
    if command.first() != Some(&"docker") {
        command = JOB.to_vec();
    }
    let beside = pods_container(job, &volumes)
        .flags([
            "--network",
            &format!("container:{}", dind.name),
            "--user",
            user,
        ])
        .flags(["--entrypoint", command[0]]);
    assert_eq!(beside.run(&command[1..]).text(), PRINTED);

    // No TCP: the pod's address is every pod's to reach.
    dind.not_logged(&["docker is ready", "tcp://"]);
    // An engine in a user namespace may write to what is its own, which the data root is.
    let is_privileged = sidecar["securityContext"]["privileged"] == true;
    let (kept, bind, file) = match is_privileged {
        true => ("socket", "/run/dind:/out", "/out/end"),
        false => ("data", "out:/out", "/out/volumes/out/_data/end"),
    };
    let kept = own.iter().find(|(name, _)| name == kept);
    let (_, kept) = kept.expect("the pod has that volume");
    let long = "trap 'echo in order >/out/end; exit' TERM; echo up; while :; do sleep 0.1; done";
    let run = ["docker", "-H", host, "run", "--detach", "--volume", bind];
    let inner = dind.text(&[&run[..], &["busybox", "sh", "-c", long]].concat());
    dind.wait_until(&format!("docker -H {host} logs {inner} | grep -q up"));
    let grace = spec["terminationGracePeriodSeconds"].to_string();
    dind.docker(&["stop", "--time", &grace]).exited(0);
    assert_eq!(dind.inspect("{{.State.ExitCode}}"), "0");
    let end = unprivileged().flags(kept.on("/out")).run(&["cat", file]);
    assert_eq!(end.text(), "in order");
}

#[test]
fn a_pod_has_an_engine_beside_its_job() {
    let pod = &documents(include_str!("../recipes/kubernetes-pod.yaml"))[0];
    run_pod(&pod["spec"], "job", "root");
}

/// With what the file says and no more: its engine says that it is in a user namespace.
#[test]
fn a_pod_without_privileges_has_an_engine_beside_its_job() {
    let pod = &documents(include_str!("../recipes/kubernetes-rootless-pod.yaml"))[0];
    let says = ["rootless: the engine runs in a user namespace"];
    run_pod_on(&pod["spec"], "job", "1000", &[], &says);
}

#[test]
fn jenkins_pod_has_an_engine_beside_its_steps() {
    let pod = &documents(include_str!("../recipes/jenkins-pod.yaml"))[0];
    run_pod(&pod["spec"], "docker", "root");
}

/// GitHub's runner is the user 1001, of the group that the socket is made for.
#[test]
fn the_pod_of_actions_runner_controller_has_an_engine_beside_its_runner() {
    let values = &documents(include_str!("../recipes/arc-values.yaml"))[0];
    run_pod(&values["template"]["spec"], "runner", "1001:123");
}

#[test]
fn a_pod_of_the_fleet_has_an_engine_beside_its_runner() {
    let recipe = documents(include_str!("../recipes/kubernetes-cache.yaml"));
    let fleet = recipe
        .iter()
        .find(|document| text(document, "/metadata/name") == "runner")
        .expect("the fleet is a Deployment named runner");
    run_pod(&fleet["spec"]["template"]["spec"], "runner", "root");
}

/// The store of a node: each pod of a CronJob's makes its next generation, and those of the fleet
/// begin with it.
#[test]
fn a_pod_of_the_fleet_begins_with_the_store_of_its_node() {
    let recipe = documents(include_str!("../recipes/kubernetes-store.yaml"));
    let of_kind = |kind: &str| {
        let found = recipe.iter().find(|document| document["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    let network = Network::new();
    let _hub = hub(&network.name);
    let node = Volume::new();
    let stores = ("stores".to_owned(), node.name().to_owned());
    let config = Scratch::new();
    for (name, content) in entries(of_kind("ConfigMap"), "/data") {
        config.file(name, content);
    }
    let refresh = config.path.to_str().expect("a name in UTF-8").to_owned();
    let volumes = [stores.clone(), ("refresh".to_owned(), refresh)];
    let job = &of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    for generation in 1..=3 {
        for (list, engine) in [("/initContainers", true), ("/containers", false)] {
            let container = &items(job, list)[0];
            let mut spec = pods_container(container, &volumes);
            if engine {
                let flags = ["--network", network.name.as_str()];
                spec = spec.flags(flags).env("DOCKER_DAEMON_ARGS", MIRROR);
            }
            let output = spec.run(&words(container, "/args")).exited(0);
            if engine {
                output.says(&[&format!("generation {generation}, 2 images, ")]);
            }
        }
    }
    let fleet = &of_kind("Deployment")["spec"]["template"]["spec"];
    let says = ["store /stores/main: generation 3, 2 images, "];
    run_pod_on(fleet, "runner", "root", &[stores], &says);
}

/// Four runners at once, and a refresh while they run.
#[test]
fn composes_runners_begin_with_one_store() {
    let project = Project::new(include_str!("../recipes/store.compose.yaml"));
    project
        .compose(&["--profile", "refresh", "up", "--no-start"])
        .exited(0);
    let _hub = hub(&format!("{}_default", project.name));
    let refresh = || {
        let mirror = format!("DOCKER_DAEMON_ARGS={MIRROR}");
        let run = ["run", "--rm", "--no-TTY", "--env", &mirror, "refresh"];
        project.compose(&run).exited(0)
    };
    let prune = || project.compose(&["run", "--rm", "--no-TTY", "prune"]);
    refresh().says(&["store /stores/main: generation 1, 2 images, "]);
    project.compose(&["up", "--detach", "--wait"]).exited(0);
    let runners = [1, 2, 3, 4].map(|number| {
        ManuallyDrop::new(Container {
            name: format!("{}-runner-{number}", project.name),
        })
    });
    let built = runners.each_ref().map(|runner| {
        runner.logged(&["store /stores/main: generation 1, 2 images, "]);
        assert_eq!(runner.text(&JOB), PRINTED);
        runner.sh("docker run --rm app cat /built")
    });
    assert!(built.iter().all(|one| one == &built[0]), "{built:?}");
    for generation in 2..=4 {
        refresh().says(&[&format!("generation {generation}, 2 images, ")]);
    }
    assert_eq!(prune().text(), "removed 1 generations, and kept 1 in use");
    for runner in &runners {
        assert_eq!(runner.sh("docker run --rm app cat /built"), built[0]);
    }
}

/// The first runner of a `config.toml`.
fn runner(toml: &str) -> Value {
    const CONVERT: &str =
        "import json, sys, tomllib; json.dump(tomllib.load(sys.stdin.buffer), sys.stdout)";
    let scratch = Scratch::new();
    let runner = unprivileged()
        .image(&lab("DIND_LAB_TOOLS"))
        .run_with_stdin(&scratch.file("toml", toml), &["python", "-c", CONVERT])
        .text();
    let runner: Value = serde_json::from_str(&runner).expect("Python writes JSON");
    runner["runners"][0].clone()
}

/// A service as a runner's docker executor starts it: with the volumes and the environment that
/// `config.toml` has for all of them.
#[test]
fn gitlabs_services_begin_with_the_store_of_their_host() {
    let runner = runner(include_str!("../recipes/gitlab-runner-store.toml"));
    assert_eq!(runner["docker"]["privileged"], true);
    let stores = Volume::new();
    save(&stores, &[], "docker load --quiet").exited(0);
    let certificates = Volume::new();
    let mut service = dind();
    for mount in words(&runner, "/docker/volumes") {
        service = match mount.split_once(':') {
            Some((_, target)) => service.flags(stores.on(target)),
            None => service.flags(certificates.on(mount)),
        };
    }
    for variable in words(&runner, "/environment") {
        service = service.flags(["-e", variable]);
    }
    let service = service.ready(&[]);
    service.logged(&["store /stores/main: generation 1, 1 images, "]);
    assert_eq!(service.inner(&[], &["echo", "inside"]), "inside");
}

/// The engine by the command of the file, and a job as the runner's docker executor starts it.
#[test]
fn gitlabs_jobs_without_privileges_have_an_engine_without_privileges() {
    let file = include_str!("../recipes/gitlab-runner-rootless.toml");
    let command = file
        .lines()
        .find_map(|line| line.strip_prefix("#   docker run -d --restart always --name docker "));
    let network = Network::new();
    let (certificates, data) = (Volume::new(), Volume::new());
    let named = |word: &str| {
        let word = match word {
            "ci" => &network.name,
            "seccomp=/etc/dind.json" => "seccomp=dind.json",
            word => word,
        };
        word.replace("ci-certificates:", &format!("{}:", certificates.name()))
            .replace("ci-data:", &format!("{}:", data.name()))
    };
    let flags = command.and_then(|command| command.strip_suffix(" dind"));
    let flags = flags
        .expect("the file has the command")
        .split(' ')
        .map(named);
    let engine = unprivileged()
        .flags(flags)
        .flags([
            "--network-alias=docker",
            "--security-opt=apparmor=unconfined",
        ])
        .ready(&[]);
    engine.logged(&["rootless: the engine runs in a user namespace"]);
    load_busybox(&engine, SOCKET);

    let runner = runner(file);
    assert_eq!(runner["docker"]["privileged"], false);
    let mut job = unprivileged();
    for (pointer, flag) in [
        ("/environment", "--env"),
        ("/docker/volumes", "--volume"),
        ("/docker/security_opt", "--security-opt"),
        ("/docker/cap_drop", "--cap-drop"),
    ] {
        for word in words(&runner, pointer) {
            job = job.flags([flag.to_owned(), named(word)]);
        }
    }
    let network = named(text(&runner, "/docker/network_mode"));
    let recipe = &documents(include_str!("../recipes/gitlab-ci.yml"))[0];
    let script = words(recipe, "/.job/script").join("\n");
    let scratch = Scratch::new();
    let script = scratch.file("script", &format!("set -e\n{script}\n"));
    let output = job
        .flags(["--network".to_owned(), network])
        .run_with_stdin(&script, &["sh"]);
    assert_eq!(output.text(), PRINTED);
}

/// What the CLI of devcontainers has made.
struct Workspace {
    scratch: Scratch,
    label: String,
    spec: Spec,
}

impl Workspace {
    fn new(recipe: &str) -> Self {
        let scratch = Scratch::new();
        scratch.file(".devcontainer.json", &with_images(recipe));
        let path = scratch.path.to_str().expect("a name in UTF-8").to_owned();
        let spec = beside_the_engine("DIND_LAB_TOOLS").flags(scratch.mounted_on(&path));
        Self {
            scratch,
            label: format!("dind-e2e={}", unique_name()),
            spec,
        }
    }

    fn devcontainer(&self, verb: &str, arguments: &[&str]) -> Output {
        let path = self.scratch.path.to_str().expect("a name in UTF-8");
        let command = ["devcontainer", verb, "--workspace-folder", path];
        let label = ["--id-label", self.label.as_str()];
        self.spec.run(&[&command, &label[..], arguments].concat())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let filter = format!("label={}", self.label);
        let left = docker(["ps", "--all", "--quiet", "--filter", &filter]).text();
        for container in left.lines() {
            let volumes = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{end}}{{end}}";
            let volumes = docker(["inspect", "--format", volumes, container]).text();
            if thread::panicking() {
                let logs = docker(["logs", container]);
                eprintln!("--- {container}\n{}{}---", logs.stdout, logs.stderr);
            }
            let removed = docker(["rm", "--force", "--volumes", container]);
            let _volumes: Vec<_> = volumes.split_whitespace().map(Volume::adopt).collect();
            if removed.status != 0 {
                eprintln!("{container} is left behind: {}", removed.stderr);
            }
        }
    }
}

#[test]
fn a_devcontainer_has_an_engine_of_its_own() {
    let workspace = Workspace::new(include_str!("../recipes/devcontainer.json"));
    let up = workspace.devcontainer("up", &[]).text();
    let up: Value = serde_json::from_str(&up).expect("the CLI writes JSON");
    assert_eq!(up["outcome"], "success", "{up}");
    // The workspace takes it away, with its volume.
    let container = ManuallyDrop::new(Container {
        name: text(&up, "/containerId").into(),
    });
    load_busybox(&container, SOCKET);
    let run = workspace.devcontainer("exec", &JOB);
    assert_eq!(run.text(), PRINTED);
    let listed = workspace.devcontainer("exec", &["ls", "-a"]).text();
    assert!(listed.contains(".devcontainer.json"), "{listed}");
}

const COMPOSE: &[&str] = &[
    "check-jsonschema",
    "--builtin-schema",
    "vendor.compose-spec",
];
const GITHUB: &[&str] = &[
    "check-jsonschema",
    "--builtin-schema",
    "vendor.github-workflows",
];
const GITLAB: &[&str] = &["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci"];
const KUBERNETES: &[&str] = &[
    "kubernetes-validate",
    "--strict",
    "--kubernetes-version",
    "1.34",
];

/// The pods of Jenkins and of the chart are pods, and the runner's configuration is TOML; what
/// a chart makes of its values is the chart's.
const PODS: &str = "
import json, sys, tomllib, yaml
load = lambda name: yaml.safe_load(open('/recipes/' + name))
spec = {'jenkins': load('jenkins-pod.yaml')['spec'], 'arc': load('arc-values.yaml')['template']['spec']}
for name in spec:
    json.dump({'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': name}, 'spec': spec[name]}, open(f'/recipes/{name}.json', 'w'))
runner = tomllib.loads(load('gitlab-runner-values.yaml')['runners']['config'])['runners'][0]
assert runner['kubernetes']['privileged'] is True, runner
";

#[test]
fn every_file_holds_against_the_schema_of_its_format() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = unprivileged()
        .image(&lab("DIND_LAB_TOOLS"))
        .start(&["sleep", "infinity"]);
    tools.copy_in(&top.join("tests/recipes"), "/recipes");
    tools.copy_in(&top.join(".github/workflows"), "/workflows");
    tools.text(&["python", "-c", PODS]);
    let (image, typo) = ("image:", "imagge:");
    let probes = ("startupProbe", "startProbe");
    for (checker, file, (right, wrong)) in [
        (COMPOSE, "/recipes/compose.yaml", (image, typo)),
        (COMPOSE, "/recipes/cache.compose.yaml", (image, typo)),
        (COMPOSE, "/recipes/store.compose.yaml", (image, typo)),
        (
            COMPOSE,
            "/recipes/swarm.compose.yaml",
            ("services:", "servces:"),
        ),
        (GITLAB, "/recipes/gitlab-ci.yml", ("alias:", "alas:")),
        (GITHUB, "/recipes/github-workflow.yml", (image, typo)),
        (GITHUB, "/recipes/gitea-workflow.yml", (image, typo)),
        (GITHUB, "/workflows/ci.yml", ("runs-on:", "run-on:")),
        (GITHUB, "/workflows/release.yml", ("runs-on:", "run-on:")),
        (KUBERNETES, "/recipes/kubernetes-pod.yaml", probes),
        (KUBERNETES, "/recipes/kubernetes-rootless-pod.yaml", probes),
        (KUBERNETES, "/recipes/kubernetes-cache.yaml", probes),
        (KUBERNETES, "/recipes/kubernetes-store.yaml", probes),
        (KUBERNETES, "/recipes/jenkins.json", probes),
        (KUBERNETES, "/recipes/arc.json", probes),
    ] {
        let check = |file: &str| tools.exec(&[checker, &[file]].concat());
        check(file).exited(0);
        let broken = format!(
            "{file}.broken.{}",
            file.rsplit('.').next().expect("a suffix")
        );
        tools.sh(&format!("sed 's/{right}/{wrong}/' {file} >{broken}"));
        assert_ne!(check(&broken).status, 0, "{file} may have {wrong}");
    }
}
