#!/bin/sh
# A unit that is asked to stop does not, and is killed for it.
. "$(dirname "$0")/lib.sh"
begin 25

unit stop-timeout.service <<'UNIT'
[Service]
TimeoutStopSec=2
ExecStart=/usr/bin/python3 -c 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("deaf", flush=True); time.sleep(3600)'
UNIT
reload
start stop-timeout.service
await logged stop-timeout.service 'deaf'
systemctl stop stop-timeout.service
outcome stop-timeout.service failed timeout killed 9
end
