#!/bin/sh
# A unit grows steadily towards its limit and is killed there: `leak.sh MIB_PER_SECOND`, of 60 MiB.
. "$(dirname "$0")/lib.sh"
begin 5

rate=${1:-4}
unit leak.service <<UNIT
[Service]
MemoryMax=60M
MemorySwapMax=0
ExecStart=/usr/bin/python3 -c 'import time\nheld = []\nwhile True: held.append(bytearray(1 << 18)); time.sleep(0.25 / $rate)'
UNIT
reload
start leak.service
outcome leak.service failed "$(cgroup2 && echo oom-kill || echo signal)" killed 9
end
