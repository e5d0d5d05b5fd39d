#!/bin/sh
# A unit's child grows beyond the unit's limit and is killed; the unit's main process goes on.
. "$(dirname "$0")/lib.sh"
begin 2

unit oom-child.service <<'UNIT'
[Service]
MemoryMax=60M
MemorySwapMax=0
OOMPolicy=continue
ExecStart=/bin/sh -c 'python3 -c "x = bytearray(200 << 20)"; echo the worker is gone: $?; exec sleep infinity'
UNIT
reload
start oom-child.service
active oom-child.service
child_gone() {
    journalctl --quiet --unit=oom-child.service --grep='the worker is gone' | grep -q .
}
await child_gone
say did what=child_killed unit=oom-child.service "invocation=$(property oom-child.service InvocationID)"
systemctl stop oom-child.service
outcome oom-child.service "$(cgroup2 && echo failed || echo inactive)" "$(cgroup2 && echo oom-kill || echo success)" killed 15
end
