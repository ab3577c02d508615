# shellcheck shell=bash
# The facts of each cgroup layout for the golden tests of plans. They are read in a virtual
# machine: on its host, and in containers that stand in for dind's.

# shellcheck disable=SC2016 # the container's shell fills these in
FIXTURES_PLAIN='exec sh -c "$1"'
# Runs facts.sh on the machine itself, and not in the container that is the way there.
# shellcheck disable=SC2016
FIXTURES_HOST='exec nsenter --target 1 --all sh -c "$1"'
# As wrapdocker found the hierarchies: none is mounted.
# shellcheck disable=SC2016
FIXTURES_BARE='umount -R /sys/fs/cgroup && exec sh -c "$1"'

# fixture LAYOUT NAME SCRIPT FLAG...: SCRIPT gets facts.sh as $1.
fixture() {
    local layout=$1 name=$2 script=$3 file
    shift 3
    file=$LAB_TOP/tests/fixtures/$layout/$name.facts
    mkdir -p "${file%/*}"
    {
        docker version --format '== origin{{println}}Docker {{.Server.Version}}, Linux {{.Server.KernelVersion}}'
        printf "docker run %s --entrypoint sh dind -c '%s' facts \"\$(cat tests/lab.d/facts.sh)\"\n" "$*" "$script"
        docker run --rm "$@" --entrypoint sh "$VM_IMAGE" -c "$script" facts "$(<"$LAB_TOP/tests/lab.d/facts.sh")"
    } >"$file.part"
    mv "$file.part" "$file"
    say "tests/fixtures/$layout/$name.facts: $(wc -l <"$file") lines"
}

lab_fixtures() {
    local layout=${1-}
    [ $# -eq 1 ] || usage_error "fixtures: takes one argument: v2, v1 or hybrid"
    known_layout fixtures "$layout"
    lab_vm "$layout" >/dev/null
    fixture "$layout" machine "$FIXTURES_HOST" --privileged --pid=host
    fixture "$layout" private "$FIXTURES_PLAIN" --privileged --cgroupns=private
    fixture "$layout" host "$FIXTURES_PLAIN" --privileged --cgroupns=host
    fixture "$layout" bare "$FIXTURES_BARE" --privileged
    say "done; 'tests/lab vm down' stops the machine"
}
