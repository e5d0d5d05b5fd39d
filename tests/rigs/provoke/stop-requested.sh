#!/bin/sh
# A person restarts a unit and then stops it: nothing failed.
. "$(dirname "$0")/lib.sh"
begin N1

unit stop-requested.service <<'UNIT'
[Service]
ExecStart=/bin/sleep infinity
UNIT
reload
systemctl start stop-requested.service
say did what=started unit=stop-requested.service "invocation=$(property stop-requested.service InvocationID)"
systemctl restart stop-requested.service
say did what=restarted unit=stop-requested.service "invocation=$(property stop-requested.service InvocationID)"
systemctl stop stop-requested.service
outcome stop-requested.service inactive success killed 15
end
