#!/bin/sh
# The manager reads its files again, several times, with units that come and change.
. "$(dirname "$0")/lib.sh"
begin 0

for round in 1 2 3; do
    unit reload.service <<UNIT
[Unit]
Description=round $round
[Service]
ExecStart=/bin/sleep infinity
UNIT
    reload
    say did what=reloaded unit=- round=$round
done
systemctl start reload.service
systemctl daemon-reexec
say did what=reexecuted unit=-
await systemctl is-active --quiet reload.service
systemctl stop reload.service
outcome reload.service inactive success killed 15
end
