#!/bin/sh
# A unit fails at each start, until systemd does not start it any more.
. "$(dirname "$0")/lib.sh"
begin 18

unit start-limit.service <<'UNIT'
[Unit]
StartLimitIntervalSec=300
StartLimitBurst=4
[Service]
Restart=always
RestartSec=100ms
ExecStart=/bin/sh -c 'echo "start-limit: /etc/start-limit.conf:7: unknown option colour" >&2; exit 1'
UNIT
reload
# What an earlier run left: the starts that systemd counted, and the restarts that are waited for.
systemctl reset-failed start-limit.service 2>/dev/null || true
start start-limit.service
await has start-limit.service NRestarts 4
outcome start-limit.service failed exit-code exited 1
end
