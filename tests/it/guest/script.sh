# Runs inside the guest (tests/rigs/guest/run) and only collects; tests/it/guest.rs judges.
# Each step leaves its output and status in /result, and a failed one does not stop the next.
set -u

# How long each step takes under emulation is what one wants to know when it takes too long.
step() { echo "$(cut -d' ' -f1 /proc/uptime) $1" >>/result/steps; }

step boot
uname -r >/result/kernel
stat -fc %T /sys/fs/cgroup >/result/cgroup
echo "$INVOCATION_ID" >/result/invocation

# The tests of this kernel, by the binary that runs this. They start the programs where the build left them.
build=$(cat /host/build)
mkdir -p "$build"
ln -s /host/tapio-server /host/tapio-collector "$build/"
export RUST_BACKTRACE=0
tests=$(echo /host/it-*)
# Only what meets this kernel and this systemd: the emulator makes minutes of the rest, which passed on the host.
step tests
"$tests" --include-ignored --test-threads 1 ebpf::live_ ebpf::cgroup ebpf::disk ebpf::net ebpf::process \
    entity::live_ sampler::live_ journal::live >/result/live 2>&1
echo $? >/result/live.status

# Prints what the server answers; fails until it does.
ask() {
    python3 - "$1" <<'PYTHON'
import sys, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:9091" + sys.argv[1], timeout=10).read().decode())
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
PYTHON
}

# Repeats a command until it succeeds: a minute at most, and while the process is there that it asks.
await() {
    process=$1 tries=0
    shift
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] && kill -0 "$process" || return 1
        sleep 1
    done >/dev/null 2>&1
}

step doctor
/host/tapio-collector doctor --json >/result/doctor.json 2>/result/doctor.log
echo $? >/result/doctor.status

step agent
/host/tapio-server --data-dir /tmp/server >/result/server.log 2>&1 &
server=$!
await $server ask /healthz

socket=/tmp/collector.sock
/host/tapio-collector --socket $socket --state-dir /tmp/collector --record /tmp/record --output /tmp/incidents \
    >/result/collector.log 2>&1 &
agent=$!
await $agent /host/tapio-collector status --socket $socket

step provoke
# Something of each sort: short lives, a failed exit, a kill, a refused connect, a listener, a cgroup.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    true | cat
    false
done
sleep 60 &
kill -KILL $!
python3 - <<'PYTHON'
import socket
listener = socket.create_server(("127.0.0.1", 7777))
socket.create_connection(("127.0.0.1", 7777)).close()
listener.close()
try:
    socket.create_connection(("127.0.0.1", 1))
except ConnectionRefusedError:
    pass
PYTHON
mkdir /sys/fs/cgroup/tapio-guest && rmdir /sys/fs/cgroup/tapio-guest

sleep 20
/host/tapio-collector status --json --socket $socket >/result/status.json 2>/result/status.log
for kind in process_exec process_exit signal tcp_connect tcp_listen cgroup_created; do
    ask "/api/v1/events?kind=$kind&limit=1" >/result/events.$kind 2>&1
done

step scripts
# What the container rig cannot: limits of cgroup v2, systemd-oomd, systemd-coredump, the clock. The clock is last.
export TAPIO_WAIT_MAX=600
for name in oom-kill pressure-kill segfault clock-step; do
    step $name
    sh /host/$name.sh >/result/provoked.$name 2>/result/provoked.$name.log
    echo $? >/result/provoked.$name.status
done
step queries
sleep 5
ask "/api/v1/events?limit=100000" >/result/events 2>&1

step stop
kill -TERM $agent
wait $agent
echo $? >/result/collector.status
cp /tmp/record /tmp/incidents /result/
ask /api/v1/status >/result/server.json 2>/result/server.json.log
kill -TERM $server
wait $server
echo $? >/result/server.status
