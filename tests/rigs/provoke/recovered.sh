#!/bin/sh
# A unit fails once, is restarted by systemd, and is well from then on.
. "$(dirname "$0")/lib.sh"
begin N3

rm -f /run/recovered.once
unit recovered.service <<'UNIT'
[Service]
Restart=on-failure
RestartSec=200ms
ExecStart=/bin/sh -c 'if mkdir /run/recovered.once; then exit 1; fi; exec sleep infinity'
UNIT
reload
start recovered.service
await has recovered.service NRestarts 1
active recovered.service
say did what=recovered unit=recovered.service "invocation=$(property recovered.service InvocationID)"
end
