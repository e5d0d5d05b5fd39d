#!/bin/sh
# A program reads from an address that is not mapped, and leaves a core.
. "$(dirname "$0")/lib.sh"
begin 23

unit segfault.service <<'UNIT'
[Service]
LimitCORE=infinity
WorkingDirectory=/tmp
ExecStart=/usr/bin/python3 -c 'import ctypes, time; time.sleep(0.3); ctypes.string_at(8)'
UNIT
reload
start segfault.service
outcome segfault.service failed core-dump dumped 11
end
