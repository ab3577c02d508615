# A Docker host in a container: dind as PID 1, with the Docker engine of a Debian
# suite, with one of your own in its place, or with docker:dind's.
#
#   docker build -t dind .
#   docker build -t dind --build-arg SUITE=bookworm .
#   docker build -t dind --build-arg ENGINE=bundles/binary .
#   docker build -t dind --build-arg UPSTREAM=docker:29-dind --target upstream .
#   docker build -t dind:rootless --target rootless .
#
# Nothing here needs BuildKit.

# bookworm, trixie or forky.
ARG SUITE=trixie
# A directory of the build context with binaries of your own: dockerd, docker,
# containerd, runc, ... They come before Debian's in PATH.
ARG ENGINE=
# What --target upstream starts from. BuildKit makes only the stages that a target needs,
# and sets TARGETARCH. The legacy builder makes every stage up to the target, and sets
# nothing: told of no image, it makes this stage of the one before, and pulls nothing.
ARG UPSTREAM=${TARGETARCH:+docker:29-dind}

FROM rust:1-slim-trixie AS build
WORKDIR /dind
# The dependencies, compiled behind an empty program, are a layer of their own: a
# change in src/ does not compile them again.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked
COPY build.rs ./
COPY src src
# Cargo goes by dates, and the empty program is younger than the real one.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked

# docker:dind with this program in the place of its scripts. Its entrypoint is a client
# where it gets a command; this one's runs the command beside a daemon, as on Debian.
FROM ${UPSTREAM:-build} AS upstream
LABEL org.opencontainers.image.title="dind" \
    org.opencontainers.image.description="Docker in Docker: a privileged container that is a Docker host" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /dind/target/release/dind /usr/local/bin/dind
RUN for name in wrapdocker dockerd-entrypoint.sh docker-entrypoint.sh hack-dind; do \
        ln -sf dind "/usr/local/bin/${name}" || exit; \
    done \
    && { command -v dockerd || echo "no engine here: for --target upstream, set UPSTREAM=docker:29-dind"; }
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["dind", "health"]
ENTRYPOINT ["dind"]

FROM debian:${SUITE}-slim AS engine
ARG ENGINE
# COPY must always find something: without ENGINE it is a file that goes again.
COPY ${ENGINE:-Cargo.toml} /engine/
RUN rm -f /engine/Cargo.toml \
    && find /engine -type f -exec chmod 0755 {} +

FROM debian:${SUITE}-slim AS full
LABEL org.opencontainers.image.title="dind" \
    org.opencontainers.image.description="Docker in Docker: a privileged container that is a Docker host" \
    org.opencontainers.image.licenses="Apache-2.0"
# The group's number is docker:dind's, so that it is the same for a socket that containers
# of both share. docker.io recommends the CLI where that is a package of its own, and is
# the CLI where it is not; bookworm has no buildx. What packages leave in /tmp would keep
# it from becoming a tmpfs.
RUN { getent group 2375 || groupadd --system --gid 2375 docker; } \
    && apt-get update \
    && cli=$(apt-cache show docker-cli docker-buildx 2>/dev/null | sed -n 's/^Package: //p' | sort -u) \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        apparmor \
        bash \
        btrfs-progs \
        ca-certificates \
        docker-compose \
        docker.io \
        ${cli} \
        e2fsprogs \
        erofs-utils \
        fuse-overlayfs \
        git \
        iproute2 \
        iptables \
        kmod \
        nftables \
        openssh-client \
        openssl \
        passt \
        pigz \
        procps \
        slirp4netns \
        xfsprogs \
        xz-utils \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && find /tmp -mindepth 1 -delete
COPY --from=engine /engine/ /usr/local/bin/
COPY --from=build /dind/target/release/dind /usr/local/bin/dind
# The name that it is started under chooses the contract.
RUN for name in wrapdocker dockerd-entrypoint.sh docker-entrypoint.sh hack-dind; do \
        ln -s dind "/usr/local/bin/${name}" || exit; \
    done

# Certificates are shared with clients of any user: docker:dind's directories and modes.
# The account is the one of --userns-remap=default.
RUN mkdir -m 1777 /certs /certs/client \
    && useradd --system --user-group --no-create-home --shell /usr/sbin/nologin dockremap \
    && for file in /etc/subuid /etc/subgid; do \
        echo dockremap:165536:65536 >> "$file" || exit; \
    done
# Empty turns TLS off.
ENV DOCKER_TLS_CERTDIR=/certs

# overlay2 cannot lie on the container's own overlay.
VOLUME /var/lib/docker
EXPOSE 2375 2376
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["dind", "health"]
ENTRYPOINT ["dind"]

# The same for an ordinary user, with docker:dind-rootless' account, directories and volume. With
# the set-user-ID bit newuidmap would be root and no owner of the user namespace, for which the kernel
# wants CAP_SYS_ADMIN: with capabilities of the file it stays this user.
FROM full AS rootless
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libcap2-bin uidmap \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && find /tmp -mindepth 1 -delete \
    && chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap \
    && setcap cap_setuid=ep /usr/bin/newuidmap \
    && setcap cap_setgid=ep /usr/bin/newgidmap
RUN useradd --create-home --uid 1000 --shell /bin/bash rootless \
    && for file in /etc/subuid /etc/subgid; do \
        { grep -q ^rootless: "$file" || echo rootless:100000:65536 >> "$file"; } || exit; \
    done \
    && mkdir -p /run/user && chmod 1777 /run/user \
    # Clients that are not told otherwise look there.
    && ln -s user/1000/docker.sock /run/docker.sock \
    && install -d -o rootless -g rootless /home/rootless/.local /home/rootless/.local/share \
        /home/rootless/.local/share/docker
VOLUME /home/rootless/.local/share/docker
USER rootless

# What a build without a target makes.
FROM full
