#!/bin/sh
# The message bus is killed; units fail while it is away; it is started again.
. "$(dirname "$0")/lib.sh"
begin 0

unit without-bus.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'exit 6'
UNIT
reload
pid=$(property dbus.service MainPID)
kill -KILL "$pid"
say did what=killed unit=dbus.service "pid=$pid"
start without-bus.service
outcome without-bus.service failed exit-code exited 6
# It is started by whoever asks for it first; asking is what this does.
systemctl reset-failed dbus.service 2>/dev/null || true
systemctl start dbus.service
answers() {
    busctl --system --no-legend list >/dev/null
}
await answers
say did what=started unit=dbus.service
end
