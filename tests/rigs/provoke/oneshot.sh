#!/bin/sh
# Jobs as a timer starts them: they do their work, one of them logs loudly, and they end well.
. "$(dirname "$0")/lib.sh"
begin N4

unit oneshot.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo 0 errors, nothing failed'
UNIT
unit oneshot.timer <<'UNIT'
[Timer]
OnActiveSec=100ms
AccuracySec=10ms
UNIT
reload
systemctl start oneshot.timer
ran() {
    [ "$(property oneshot.service ExecMainStartTimestampMonotonic)" != 0 ]
}
await ran
outcome oneshot.service inactive success exited 0
systemctl stop oneshot.timer
end
