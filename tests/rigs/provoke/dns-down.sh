#!/bin/sh
# The resolver of the host crashes; three clients ask it in vain and give up.
. "$(dirname "$0")/lib.sh"
begin 13

cat >/run/resolver.py <<'PYTHON'
import os, socket, sys
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.bind(("127.0.0.53", 53))
# Resolvers answer over TCP, too.
stream = socket.create_server(("127.0.0.53", 53))
port.settimeout(0.1)
while not os.path.exists("/run/resolver.fail"):
    try:
        query, client = port.recvfrom(512)
    except TimeoutError:
        continue
    # The same question, and one answer: the name it begins with is at 127.0.0.1.
    answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x7f\x00\x00\x01"
    port.sendto(query[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + query[12:] + answer, client)
sys.exit("resolver: cannot read zone: input/output error")
PYTHON
cat >/run/asks.py <<'PYTHON'
import socket, struct, sys, time
question = b"\x02db\x07example\x00" + struct.pack(">HH", 1, 1)
failures = 0
while failures < 5:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(1)
    try:
        asking.connect(("127.0.0.53", 53))
        asking.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + question)
        asking.recv(512)
        failures = 0
    except OSError as error:
        failures += 1
        print(f"lookup db.example on 127.0.0.53:53: {error}", file=sys.stderr, flush=True)
    time.sleep(0.2)
sys.exit(1)
PYTHON
rm -f /run/resolver.fail
unit resolver.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 /run/resolver.py
UNIT
for name in shop mail stats; do
    unit asks-$name.service <<'UNIT'
[Unit]
After=resolver.service
[Service]
ExecStart=/usr/bin/python3 /run/asks.py
UNIT
done
reload
start resolver.service
binds() {
    ss --no-header --udp --listening --numeric 'sport = 53' | grep -q .
}
await binds
start asks-shop.service asks-mail.service asks-stats.service
active asks-shop.service
active asks-mail.service
active asks-stats.service
sleep 1
touch /run/resolver.fail
outcome resolver.service failed exit-code exited 1
for name in shop mail stats; do
    outcome asks-$name.service failed exit-code exited 1
done
end
