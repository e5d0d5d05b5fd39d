#!/bin/sh
# A person in a session kills a unit's process.
. "$(dirname "$0")/lib.sh"
begin 38

unit killed.service <<'UNIT'
[Service]
ExecStart=/bin/sleep infinity
UNIT
reload
start killed.service
active killed.service
pid=$(property killed.service MainPID)
# A session of the sort that a login makes: a scope below the user's slice.
systemd-run --quiet --scope --unit=session-77 --slice=user-0.slice sh -c "kill -KILL $pid" 2>/dev/null
say did what=killed unit=killed.service "pid=$pid" by=session-77.scope
outcome killed.service failed signal killed 9
end
