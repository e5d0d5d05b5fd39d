#!/bin/sh
# The agent is held for a while, in which more happens than its rings can keep, and a unit fails in silence:
# `lost-sources.sh AGENT COUNT`, the agent's unit and how many programs run meanwhile.
. "$(dirname "$0")/lib.sh"
begin E3

agent=${1:-tapio-collector.service} count=${2:-2000}
unit silent.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'sleep 0.5; exit 9'
UNIT
reload
systemctl kill --signal=STOP "$agent"
start silent.service
for _ in $(seq "$count"); do
    /bin/false || true
done
outcome silent.service failed exit-code exited 9
systemctl kill --signal=CONT "$agent"
say did what=held "unit=$agent" "programs=$count"
end
