#!/bin/sh
# A running unit is bound to another, which crashes: systemd stops the first, too.
. "$(dirname "$0")/lib.sh"
begin 11

unit backend.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'until [ -e /run/backend.fail ]; do sleep 0.1; done; echo backend: lost its disk >&2; exit 4'
UNIT
unit frontend.service <<'UNIT'
[Unit]
BindsTo=backend.service
After=backend.service
[Service]
ExecStart=/bin/sleep infinity
UNIT
rm -f /run/backend.fail
reload
start frontend.service
active frontend.service
touch /run/backend.fail
outcome backend.service failed exit-code exited 4
outcome frontend.service inactive success killed 15
end
