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
await logged oom-child.service 'the worker is gone'
say did what=child_killed unit=oom-child.service "invocation=$(property oom-child.service InvocationID)"
systemctl stop oom-child.service
outcome oom-child.service inactive success killed 15
end
