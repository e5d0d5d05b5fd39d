#!/bin/sh
# A unit grows beyond its memory limit again and again, until it is not started any more.
. "$(dirname "$0")/lib.sh"
begin 5

unit oom-kill.service <<'UNIT'
[Unit]
StartLimitIntervalSec=300
StartLimitBurst=3
[Service]
MemoryMax=40M
MemorySwapMax=0
Restart=on-failure
RestartSec=200ms
ExecStart=/usr/bin/python3 -c 'import time; held = []; [(held.append(bytearray(1 << 20)), time.sleep(0.01)) for _ in range(400)]'
UNIT
reload
start oom-kill.service
# Only with v2 does PID 1 know what killed the process, and not even then if it hears of its end before it hears of the
# limit; in the end it is the start limit either way.
await has oom-kill.service NRestarts 2
outcome oom-kill.service failed "$(cgroup2 && echo 'oom-kill|signal' || echo signal)" killed 9
end
