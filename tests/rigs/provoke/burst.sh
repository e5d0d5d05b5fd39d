#!/bin/sh
# Many units start and end as fast as the manager can: `burst.sh COUNT` of them, four state changes or more each.
. "$(dirname "$0")/lib.sh"
begin 0

count=${1:-1000}
# A template, so that the burst is of units and not of reloads. Every tenth run fails.
unit burst@.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'case %i in *0) exit 9 ;; esac'
UNIT
reload
# Hands the names over in few calls, so that the manager always has some more to do.
seq -f 'burst@%g.service' "$count" | xargs -n 200 systemctl start --no-block
quiet() {
    [ "$(systemctl list-jobs --no-legend 'burst@*' | wc -l)" = 0 ]
}
await quiet
failed=$(systemctl list-units --no-legend --state=failed 'burst@*' | wc -l)
[ "$failed" = $((count / 10)) ] || fail "$failed of $count failed, not every tenth"
say did what=burst unit=- "units=$count" "failed=$failed"
systemctl reset-failed 'burst@*'
end
