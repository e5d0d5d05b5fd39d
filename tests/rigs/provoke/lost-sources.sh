#!/bin/sh
# The agent is held while more happens than its rings can keep; then, when there is no room left, a unit fails. That the
# kernel lost events by then is read from the agent's ledger once it goes on:
# `lost-sources.sh AGENT COUNT`, the agent's unit and how many programs run meanwhile.
. "$(dirname "$0")/lib.sh"
begin E3

agent=${1:-tapio-collector.service} count=${2:-2000}
# What the kernel's rings had no room for so far.
lost() {
    tapio-collector status --json | python3 -c '
import json, sys
rows = json.load(sys.stdin)["ledger"]
print(sum(row["ring_lost"] for row in rows if row["source"] == "ebpf"))'
}
has_lost() {
    [ "$(lost)" -gt "$lost_before" ]
}
unit silent.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'exit 9'
UNIT
reload
lost_before=$(lost)
systemctl kill --signal=STOP "$agent"
# Each end with a status takes room that nobody frees: afterwards there is none for another.
for _ in $(seq "$count"); do
    /bin/false || true
done
start silent.service
outcome silent.service failed exit-code exited 9
systemctl kill --signal=CONT "$agent"
await has_lost
say did what=held "unit=$agent" "programs=$count" "lost=$(($(lost) - lost_before))"
end
