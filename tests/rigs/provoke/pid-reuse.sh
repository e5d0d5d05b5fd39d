#!/bin/sh
# A unit crashes; another program gets the same process id soon after, and is well. Only where ids can be chosen.
. "$(dirname "$0")/lib.sh"
begin E5

[ -w /proc/sys/kernel/ns_last_pid ] || cannot "process ids cannot be chosen here: /proc/sys is read-only"
unit reused.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'sleep 0.5; exit 7'
UNIT
reload
start reused.service
active reused.service
pid=$(property reused.service MainPID)
outcome reused.service failed exit-code exited 7
for _ in $(seq 100); do
    next=$(sh -c "echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid; sh -c 'echo \$\$'")
    if [ "$next" = "$pid" ]; then
        say did what=reused unit=- "pid=$pid"
        end
        exit
    fi
done
fail "the process id $pid did not come again"
