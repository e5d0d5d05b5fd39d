#!/bin/sh
# A unit grows after its start and then needs no more, well below its limit: `plateau.sh SECONDS` of that.
. "$(dirname "$0")/lib.sh"
begin N6

unit plateau.service <<'UNIT'
[Service]
MemoryMax=200M
ExecStart=/usr/bin/python3 -c 'import time\nheld = []\nfor _ in range(60): held.append(bytearray(1 << 20)); time.sleep(0.05)\ntime.sleep(36000)'
UNIT
reload
start plateau.service
active plateau.service
sleep "${1:-20}"
active plateau.service
systemctl stop plateau.service
outcome plateau.service inactive success killed 15
end
