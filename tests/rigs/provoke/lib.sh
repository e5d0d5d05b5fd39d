# shellcheck shell=sh
# What the scripts beside this file have in common. Each provokes one thing in the host that it runs on, as root,
# in a rig: tests/rigs/nspawn (`run exec RIG sh /host/NAME.sh`) or tests/rigs/guest. Read by `. /path/lib.sh`.
#
# Each prints what it did, one line for each thing, a word and then NAME=VALUE, values without spaces:
#   begin script=NAME story=N at_us=T    it starts; story is that of the table of failure stories, 0 for none
#   outcome unit=U invocation=I result=R code=C status=S restarts=N changed_us=T state=A
#                                        a unit has ended its run so, as systemctl says; checked to be what was meant
#   did what=W unit=U ...                something was done to a unit or to the host that is no end of a run
#   end script=NAME                      all went as it was meant to
# Status 1, and why on the standard error: the host did not do what was meant; there is no `end` then.
# Status 77: this host cannot do it, and why.
set -eu

script=$(basename "$0" .sh)
wait_max=${TAPIO_WAIT_MAX:-120}

say() {
    printf '%s\n' "$*"
}

fail() {
    echo "$script: $1" >&2
    exit 1
}

cannot() {
    echo "$script: $1" >&2
    exit 77
}

# Microseconds of the clock that systemd's own times are of.
now_us() {
    python3 -c 'import time; print(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)'
}

begin() {
    begun_us=$(now_us)
    say begin "script=$script" "story=$1" "at_us=$begun_us"
}

end() {
    say end "script=$script"
}

# Writes a unit file from the standard input; `reload` makes it known. systemd forgets what stopped units were, unless
# something that it knows refers to them: provoked.target does.
unit() {
    mkdir -p /run/systemd/system/provoked.target.d
    cat >"/run/systemd/system/$1"
    printf '[Unit]\nAfter=%s\n' "$1" >"/run/systemd/system/provoked.target.d/$1.conf"
}

reload() {
    printf '[Unit]\nDescription=What was provoked\n' >/run/systemd/system/provoked.target
    systemctl daemon-reload
    systemctl start provoked.target
}

# One property of a unit.
property() {
    systemctl show "$1" --property="$2" --value
}

# Waits until a command succeeds, asking often at first.
await() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt $((wait_max * 10)) ] || fail "waited $wait_max s in vain: $*"
        sleep 0.1
    done
}

# Whether the property $2 of the unit $1 has one of the other values.
has() {
    found=$(property "$1" "$2")
    shift 2
    for wanted in "$@"; do
        [ "$found" != "$wanted" ] || return 0
    done
    return 1
}

active() {
    await has "$1" ActiveState active
}

# Whether this run of a unit logged this.
logged() {
    journalctl --quiet --grep="$2" "_SYSTEMD_INVOCATION_ID=$(property "$1" InvocationID)" | grep -q .
}

# Starts units and goes on at once; what becomes of the start is what the script is about.
start() {
    systemctl start --no-block "$@"
}

# Whether a unit came into this state since the script began: an earlier run of the script left it in one, too.
came_into() {
    has "$1" ActiveState "$2" && [ "$(property "$1" StateChangeTimestampMonotonic)" -gt "$begun_us" ]
}

# Waits until a unit has come into this state and is at rest, then says how its run ended and fails if not so:
#   outcome UNIT STATE RESULT CODE STATUS     code is exited, killed, dumped or - for no process; RESULT may be ONE|OTHER
outcome() {
    await came_into "$1" "$2"
    await has "$1" Job 0 ''
    facts=$(systemctl show "$1" --property=InvocationID,Result,ExecMainCode,ExecMainStatus,NRestarts,StateChangeTimestampMonotonic,ActiveState)
    fact() {
        printf '%s\n' "$facts" | sed -n "s/^$1=//p"
    }
    case $(fact ExecMainCode) in
    1) code=exited ;;
    2) code=killed ;;
    3) code=dumped ;;
    *) code=- ;;
    esac
    result=$(fact Result)
    status=$(fact ExecMainStatus)
    say outcome "unit=$1" "invocation=$(fact InvocationID)" "result=${result:--}" "code=$code" "status=${status:-0}" \
        "restarts=$(fact NRestarts)" "changed_us=$(fact StateChangeTimestampMonotonic)" "state=$2"
    [ "$(fact ActiveState)" = "$2" ] || fail "$1 was $2 and is $(fact ActiveState) now"
    case "|$3|" in
    *"|$result|"*) ;;
    *) fail "$1 ended with $result, not $3" ;;
    esac
    [ "$code" = "$4" ] || fail "$1 ended $code, not $4"
    [ "${status:-0}" = "$5" ] || fail "$1 ended with status $status, not $5"
}

# Whether the limits of units are of cgroup v2.
cgroup2() {
    [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
}
