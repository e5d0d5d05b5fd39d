#!/bin/sh
# A database dies; its client, another unit, is refused from then on and gives up.
. "$(dirname "$0")/lib.sh"
begin 11

cat >/run/database.py <<'PYTHON'
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", 5499))
listener.settimeout(0.1)
while not os.path.exists("/run/database.fail"):
    try:
        listener.accept()[0].close()
    except TimeoutError:
        pass
sys.exit("database: checksum mismatch in page 12")
PYTHON
cat >/run/client.py <<'PYTHON'
import socket, sys, time
failures = 0
while failures < 5:
    try:
        socket.create_connection(("127.0.0.1", 5499), timeout=2).close()
        failures = 0
    except OSError as error:
        failures += 1
        print(f"client: connect 127.0.0.1:5499: {error}", file=sys.stderr, flush=True)
    time.sleep(0.2)
sys.exit(1)
PYTHON
rm -f /run/database.fail
unit database.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 /run/database.py
UNIT
unit client.service <<'UNIT'
[Unit]
After=database.service
[Service]
ExecStart=/usr/bin/python3 /run/client.py
UNIT
reload
start database.service
listens() {
    ss --no-header --listening --tcp --numeric 'sport = 5499' | grep -q .
}
await listens
start client.service
active client.service
# Some connections that work, so that whoever watches knows who talks to whom.
sleep 1
touch /run/database.fail
outcome database.service failed exit-code exited 1
outcome client.service failed exit-code exited 1
end
