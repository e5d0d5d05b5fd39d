#!/bin/sh
# A unit leaks file descriptors until it may not open any more, tries for a while, and ends.
. "$(dirname "$0")/lib.sh"
begin 10

unit fds.service <<'UNIT'
[Service]
LimitNOFILE=64
ExecStart=/usr/bin/python3 -uc 'import sys, time\nheld = []; failures = 0\nwhile failures < 200:\n try: held.append(open("/dev/null"))\n except OSError as error:\n  failures += 1; failures % 50 == 1 and print("accept:", error, file=sys.stderr)\n time.sleep(0.01)\nsys.exit(1)'
UNIT
reload
start fds.service
outcome fds.service failed exit-code exited 1
end
