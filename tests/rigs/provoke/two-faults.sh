#!/bin/sh
# Two units that have nothing to do with each other fail in the same second, for different reasons.
. "$(dirname "$0")/lib.sh"
begin E1

unit fault-memory.service <<'UNIT'
[Service]
MemoryMax=40M
MemorySwapMax=0
ExecStart=/usr/bin/python3 -c 'held = bytearray(200 << 20)'
UNIT
unit fault-config.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'echo "fault-config: parse error in line 3: expected =" >&2; exit 1'
UNIT
reload
start fault-memory.service fault-config.service
outcome fault-config.service failed exit-code exited 1
outcome fault-memory.service failed "$(cgroup2 && echo oom-kill || echo signal)" killed 9
end
