# shellcheck shell=bash
# The engine puts every container below one cgroup of its own, in each hierarchy,
# so that what it made can be told from what was there.

LAB_CGROUP=dind-lab

# Removes that cgroup from every hierarchy of the host, v1 and v2 alike.
cgroup_clean() {
    local mount
    # Field 5 is the mount point; the type is the first word after the lone dash.
    awk '{ for (i = 7; i < NF; i++) if ($i == "-") break
           if ($(i + 1) ~ /^cgroup2?$/) print $5 }' /proc/self/mountinfo |
        while read -r mount; do
            [ -d "$mount/$LAB_CGROUP" ] || continue
            # Children first; the kernel refuses to remove one that has any.
            find "$mount/$LAB_CGROUP" -depth -type d -exec rmdir -- {} + ||
                say "$mount/$LAB_CGROUP: not removed; see 'cat $mount/$LAB_CGROUP/cgroup.procs' for who is in it"
        done
}
