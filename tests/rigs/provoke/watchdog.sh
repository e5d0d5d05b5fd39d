#!/bin/sh
# A unit is ready, and then does not send its watchdog's keep-alive any more.
. "$(dirname "$0")/lib.sh"
begin 25

unit watchdog.service <<'UNIT'
[Service]
Type=notify
WatchdogSec=2
LimitCORE=0
ExecStart=/usr/bin/python3 -c 'import os, socket, time; bus = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); bus.connect(os.environ["NOTIFY_SOCKET"]); bus.send(b"READY=1"); time.sleep(3600)'
UNIT
reload
start watchdog.service
active watchdog.service
outcome watchdog.service failed watchdog killed 6
end
