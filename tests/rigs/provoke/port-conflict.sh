#!/bin/sh
# A unit wants a port that another unit's process has: every start fails, until there are no more starts.
. "$(dirname "$0")/lib.sh"
begin 35

cat >/run/listen.py <<'PYTHON'
import socket, sys, time
try:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
except OSError as error:
    sys.exit(f"bind 127.0.0.1:{sys.argv[1]}: {error}")
print("listening", flush=True)
time.sleep(3600)
PYTHON
for name in old new; do
    unit port-$name.service <<'UNIT'
[Unit]
StartLimitIntervalSec=300
StartLimitBurst=3
[Service]
Restart=on-failure
RestartSec=100ms
ExecStart=/usr/bin/python3 /run/listen.py 8321
UNIT
done
reload
start port-old.service
listens() {
    ss --no-header --listening --tcp --numeric 'sport = 8321' | grep -q .
}
await listens
say did what=holder unit=port-old.service "pid=$(property port-old.service MainPID)" port=8321
start port-new.service
await has port-new.service NRestarts 3
outcome port-new.service failed exit-code exited 1
systemctl stop port-old.service
end
