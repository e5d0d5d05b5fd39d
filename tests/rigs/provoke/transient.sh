#!/bin/sh
# Units that nobody wrote a file for come and go: scopes and services, `transient.sh COUNT` of each.
. "$(dirname "$0")/lib.sh"
begin 0

count=${1:-20}
for number in $(seq "$count"); do
    systemd-run --quiet --scope --unit="transient-$number" true
    systemd-run --quiet --wait --unit="transient-$number" --slice=transient.slice true
done
say did what=transient unit=- "units=$count"
end
