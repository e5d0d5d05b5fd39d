#!/bin/sh
# A unit's process ends by a signal that it sends to itself.
. "$(dirname "$0")/lib.sh"
begin 0

unit signal.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'sleep 0.2; kill -USR1 $$$$'
UNIT
reload
start signal.service
outcome signal.service failed signal killed 10
end
