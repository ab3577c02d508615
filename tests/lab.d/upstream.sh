# shellcheck shell=bash
# The image on top of docker:dind's, and a stand-in for docker:dind where it cannot be pulled.
#
# The stand-in has what that image has where that image has it (docker-library/docker, the
# Dockerfiles of cli and dind): the engine in /usr/local/bin, the CLI's plugins in
# /usr/local/libexec, the links to iptables-legacy, and busybox for everything else. The
# programs are forky's, with their C library; a shell, ps, ip, mount and find are busybox's.

UPSTREAM_IMAGE=dind-lab/upstream:latest
# shellcheck disable=SC2016 # the shell of the build expands it
UPSTREAM_RECIPE='FROM debian:forky-slim AS layout
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        btrfs-progs busybox-static docker-buildx docker-cli docker-compose docker.io \
        e2fsprogs git iptables openssh-client openssl pigz uidmap xfsprogs xz-utils
WORKDIR /image
RUN set -eu; \
    mkdir -p bin dev etc/ssl/certs home mnt proc root run sbin sys tmp usr/bin usr/lib usr/local/bin \
        usr/local/libexec/docker usr/local/sbin/.iptables-legacy usr/sbin var/lib var/log; \
    chmod 0700 root; chmod 1777 tmp; ln -s ../run var/run; \
    ln -s usr/lib lib; cp -a /usr/lib/*-linux-gnu usr/lib; \
    if [ -e /lib64 ]; then ln -s usr/lib64 lib64; cp -a /usr/lib64 usr; fi; \
    for loader in /usr/lib/ld-*; do [ ! -e "$loader" ] || cp -a "$loader" usr/lib; done; \
    for name in dockerd docker docker-init docker-proxy containerd containerd-shim-runc-v2 ctr runc; do \
        cp -L "$(command -v "$name")" usr/local/bin; \
    done; \
    cp -a /usr/libexec/docker/cli-plugins usr/local/libexec/docker; \
    ln -s ../libexec/docker/cli-plugins/docker-compose usr/local/bin/docker-compose; \
    dpkg -L btrfs-progs e2fsprogs git iptables openssh-client openssl pigz uidmap xfsprogs xz-utils \
        | while read -r file; do [ -d "$file" ] || [ ! -e "$file" ] || echo "$file"; done \
        | tar -c -T - | tar -x; \
    for name in iptables ip6tables; do \
        for rest in "" -save -restore; do \
            ln -sf xtables-nft-multi "usr/sbin/$name$rest"; \
            ln -s "/usr/sbin/$name-legacy$rest" "usr/local/sbin/.iptables-legacy/$name$rest"; \
        done; \
    done
RUN set -eu; \
    cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs; cp /etc/ssl/openssl.cnf etc/ssl; \
    cp -L /etc/os-release /etc/nsswitch.conf etc; \
    printf "root:x:0:0:root:/root:/bin/sh\ndockremap:x:100:101::/home/dockremap:/sbin/nologin\n" >etc/passwd; \
    printf "root:x:0:\ntty:x:5:\ndocker:x:2375:\ndockremap:x:101:dockremap\n" >etc/group; \
    echo dockremap:165536:65536 | tee etc/subuid >etc/subgid; \
    mkdir certs certs/client; chmod 1777 certs certs/client; \
    for name in dind docker-entrypoint.sh dockerd-entrypoint.sh; do \
        printf "#!/bin/sh\necho \"\$0 is the one of docker:dind\" >&2\nexit 99\n" >"usr/local/bin/$name"; \
    done; \
    printf "#!/bin/sh\nfor name; do ip link show \"\$name\" || true; done\n" >usr/local/bin/modprobe; \
    chmod 0755 usr/local/bin/*; \
    cp /usr/bin/busybox bin; \
    for name in $(bin/busybox --list); do \
        [ -e "usr/bin/$name" ] || [ -e "usr/sbin/$name" ] || [ -e "bin/$name" ] || ln -s busybox "bin/$name"; \
    done; \
    ln -s /bin/busybox usr/bin/env
FROM scratch
COPY --from=layout /image/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV DOCKER_VERSION=28 DIND_COMMIT=0000000000000000000000000000000000000000 DOCKER_TLS_CERTDIR=/certs
VOLUME /var/lib/docker
EXPOSE 2375 2376
ENTRYPOINT ["dockerd-entrypoint.sh"]
CMD []'

# Has the image that --target upstream starts from.
docker_dind_image() {
    local image=$1 recipe
    if [ -z "$LAB_EMBEDDED" ]; then
        ! image_there "$image" || return 0
        say "pulling $image"
        ! docker pull --quiet "$image" >/dev/null || return 0
        say "$image cannot be pulled (see above)"
    fi
    debian_image forky
    recipe="$(cksum <<<"$UPSTREAM_RECIPE") $(docker image inspect --format '{{.Id}}' debian:forky-slim)"
    ! stand_in_fresh "$image" "$recipe" || return 0
    say "making a stand-in for $image"
    docker_build --label "dind-lab.recipe=$recipe" --tag "$image" - <<<"$UPSTREAM_RECIPE"
}

# As tests/e2e/upstream.rs wants it.
upstream_image() {
    local image
    image=$(sed -n 's/^ARG UPSTREAM=.*+\(docker:[^}]*\)}$/\1/p' "$LAB_TOP/Dockerfile")
    [ -n "$image" ] || die "Dockerfile: ARG UPSTREAM names no docker:TAG: mend it, or the line that looks for it here"
    base_images trixie
    docker_dind_image "$image"
    say "building $UPSTREAM_IMAGE"
    docker_build --build-arg "UPSTREAM=$image" --target upstream --tag "$UPSTREAM_IMAGE" "$LAB_TOP"
}
