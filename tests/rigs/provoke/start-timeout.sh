#!/bin/sh
# A unit does not say in time that it is ready.
. "$(dirname "$0")/lib.sh"
begin 25

unit start-timeout.service <<'UNIT'
[Service]
Type=notify
TimeoutStartSec=2
ExecStart=/bin/sleep infinity
UNIT
reload
start start-timeout.service
outcome start-timeout.service failed timeout killed 15
end
