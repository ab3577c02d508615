//! A project of docker-compose's inside.

use crate::docker::{BUSYBOX, Scratch, dind};

/// A web server, and one that visits it by its name. A static busybox finds names by
/// `nslookup` alone, and Compose wants `$` doubled.
const PROJECT: &str = r"
services:
  web:
    image: IMAGE
    command: sh -c 'mkdir /www; echo a page >/www/index.html; exec httpd -f -h /www'
  visitor:
    image: IMAGE
    depends_on: [web]
    command:
      - sh
      - -c
      - |
        until nslookup web; do sleep 0.2; done
        address=$$(nslookup web | awk '/^Address/ {a=$$NF} END {print a}')
        until printf 'GET / HTTP/1.0\r\n\r\n' | nc $$address 80; do sleep 0.2; done
";

/// Two services come up, one reaches the other by its name, and they go again.
#[test]
fn a_project_comes_up_and_goes() {
    let scratch = Scratch::new();
    let daemon = dind().ready(&[]);
    daemon.load_busybox();
    let project = scratch.file("compose.yaml", &PROJECT.replace("IMAGE", BUSYBOX));
    daemon.copy_in(&project, "/compose.yaml");
    let compose = "docker-compose --file /compose.yaml --project-name p";
    daemon.sh(&format!("{compose} up --detach"));
    daemon.wait_until(&format!("{compose} logs visitor | grep -q 'a page'"));
    let services = daemon.sh(&format!("{compose} ps --services"));
    assert!(services.contains("web"), "{services}");
    daemon.sh(&format!("{compose} down --timeout 1"));
    assert_eq!(daemon.text(&["docker", "ps", "--all", "--quiet"]), "");
}
